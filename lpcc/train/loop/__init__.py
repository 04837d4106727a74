"""The loop of training: samples in a stream, steps, the best epoch, checkpoints."""

from __future__ import annotations

from lpcc.train.loop.training import fit

__all__ = ["fit"]

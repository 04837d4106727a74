"""A graph as a torch module: from nodes to a plan, which constants are trained, how they are written back."""

from __future__ import annotations

from lpcc.train.network.interpreter import Network

__all__ = ["Network"]

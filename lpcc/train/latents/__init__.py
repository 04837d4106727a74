"""What stands behind weights and scales stored in few bits: real numbers, trained through their rounding."""

from __future__ import annotations

from lpcc.train.latents.finding import find, latents_of
from lpcc.train.latents.latent import Latent

__all__ = ["Latent", "find", "latents_of"]

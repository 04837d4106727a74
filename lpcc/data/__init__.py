"""Samples for calibration and evaluation: from files, from a function, or made up."""

from __future__ import annotations

from lpcc.data.dataset import Batch, Dataset
from lpcc.data.preprocess import Preprocess
from lpcc.runtime.spec import TensorSpec

__all__ = ["Batch", "Dataset", "Preprocess", "TensorSpec"]

"""The errors that lpcc raises on purpose, each with the exit code of the command line.

A message is one line: what is wrong, where (file, node, layer, option) and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class LpccError(Exception):
    """Base of every error that lpcc raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(LpccError):
    """The request itself is wrong: an unknown pass, target or option, an output that cannot be written."""

    exit_code = 2


class ModelError(LpccError):
    """The model is refused: not ONNX, damaged, unsafe, or beyond what lpcc and onnxruntime handle."""

    exit_code = 3


class DataError(LpccError):
    """Calibration or evaluation data is refused: wrong name, shape or type, NaN, no samples, unsafe to read."""

    exit_code = 3


class BudgetError(LpccError):
    """What was asked cannot be met: the budget (the best model within it was still written), or the goal of a pass."""

    exit_code = 4


class PassError(LpccError):
    """A pass broke the model or crashed: a bug of lpcc's or of a plugin's. The message names the saved reproducer."""

    exit_code = 1

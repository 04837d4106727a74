"""What every tool is given: one model, the calibration images, and the file to write.

Runs in each tool's environment: ``python for_TOOL.py MODEL CALIBRATION.npz RESULT [VARIANT]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """One quantisation."""

    model: Path
    images: dict[str, np.ndarray]
    """By name of the input, images on the first axis."""
    result: Path
    variant: str

    @classmethod
    def of_command_line(cls) -> Task:
        """As the module says."""
        model, images, result, *variant = sys.argv[1:]
        with np.load(images) as arrays:
            return cls(Path(model), dict(arrays), Path(result), *variant or [""])

    def rows(self) -> Iterator[dict[str, np.ndarray]]:
        """One image after another, as a batch of one."""
        count = len(next(iter(self.images.values())))
        return ({name: array[i : i + 1] for name, array in self.images.items()} for i in range(count))

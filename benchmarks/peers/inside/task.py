"""What every tool is given: one model, the calibration images, and the file to write.

Runs in each tool's environment: ``python for_TOOL.py MODEL CALIBRATION.npz RESULT [VARIANT]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import version_converter

_OPSET = 13  # the first in which DequantizeLinear has an axis, so that weights can have a scale per channel


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

    def ready(self) -> Path:
        """The model, raised to the opset that scales per channel need by onnx's own converter where it is older.

        A model whose converted form onnxruntime refuses stays as it is.
        """
        model = onnx.load(self.model)
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset >= _OPSET:
            return self.model
        import onnxruntime

        path = self.result.with_suffix(".raised.onnx")
        try:
            onnx.save(version_converter.convert_version(model, _OPSET), path)
            onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # the converter and onnxruntime raise what they like
            print(f"opset {opset} stays: {error}", file=sys.stderr)
            return self.model
        return path

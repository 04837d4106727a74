"""onnxruntime's own static quantisation: QDQ, u8 activations, s8 weights per channel, after `quant_pre_process`.

The variant is how ranges are chosen: `MinMax`, `Percentile`, `Entropy` or `Distribution`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from task import Task


class Reader(CalibrationDataReader):
    """Hands out the images one by one."""

    def __init__(self, task: Task) -> None:
        self._rows = task.rows()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image; None after the last."""
        return next(self._rows, None)


def prepared(task: Task) -> Path:
    """The model after onnxruntime's preparation, without symbolic shapes where that gives up on them."""
    model, path = task.ready(), task.result.with_suffix(".ready.onnx")
    try:
        quant_pre_process(model, path)
    except Exception as error:  # it raises plain exceptions
        print(f"without symbolic shape inference: {error}", file=sys.stderr)
        quant_pre_process(model, path, skip_symbolic_shape=True)
    return path


if __name__ == "__main__":
    task = Task.of_command_line()
    quantize_static(
        prepared(task),
        task.result,
        Reader(task),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[task.variant],
    )

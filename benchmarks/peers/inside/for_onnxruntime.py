"""onnxruntime's own static quantisation: QDQ, u8 activations, s8 weights per channel.

The variant is how ranges are chosen: `MinMax`, `Percentile`, `Entropy` or `Distribution`.
"""

from __future__ import annotations

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from task import Task


class Reader(CalibrationDataReader):
    """Hands out the images one by one."""

    def __init__(self, task: Task) -> None:
        self._rows = task.rows()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image; None after the last."""
        return next(self._rows, None)


if __name__ == "__main__":
    task = Task.of_command_line()
    quantize_static(
        task.model,
        task.result,
        Reader(task),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[task.variant],
    )

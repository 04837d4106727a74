"""AMD Quark: one of its ready configurations (the variant), with weights per channel."""

from __future__ import annotations

import copy

import numpy as np
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config.config import Config
from quark.onnx.quantization.config.custom_config import get_default_config
from task import Task


class Reader(CalibrationDataReader):
    """Hands out the images one by one, as often as it is asked to."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.reset_iter()

    def __len__(self) -> int:
        return len(next(iter(self._task.images.values())))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image; None after the last."""
        return next(self._rows, None)

    def reset_iter(self) -> None:
        """Begin again."""
        self._rows = self._task.rows()


if __name__ == "__main__":
    task = Task.of_command_line()
    configuration = copy.deepcopy(get_default_config(task.variant))
    configuration.per_channel = True
    ModelQuantizer(Config(global_quant_config=configuration)).quantize_model(
        str(task.model), str(task.result), Reader(task)
    )

"""Intel Neural Compressor 2.x: static quantisation to QDQ with its defaults."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from neural_compressor import PostTrainingQuantConfig, quantization
from task import Task


class Loader:
    """Its form of a data loader: images, each with a label that calibration does not look at."""

    batch_size = 1

    def __init__(self, task: Task) -> None:
        self._task = task

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        return ((row, 0) for row in self._task.rows())


if __name__ == "__main__":
    task = Task.of_command_line()
    count = len(next(iter(task.images.values())))
    settings = PostTrainingQuantConfig(
        approach="static", quant_format="QDQ", calibration_sampling_size=[count], quant_level=1
    )
    found = quantization.fit(str(task.model), settings, calib_dataloader=Loader(task))
    found.save(str(task.result))

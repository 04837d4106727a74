"""NNCF: post-training quantisation with fast bias correction. The variant is the preset, `MIXED` or `PERFORMANCE`."""

from __future__ import annotations

import nncf
import onnx
from task import Task

if __name__ == "__main__":
    task = Task.of_command_line()
    rows = list(task.rows())
    quantised = nncf.quantize(
        onnx.load(task.model),
        nncf.Dataset(rows),
        preset=nncf.QuantizationPreset[task.variant],
        subset_size=len(rows),
    )
    onnx.save(quantised, task.result)

"""Images and a target for models in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from lpcc.data import Dataset
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec
from lpcc.target import Target


@pytest.fixture
def images() -> Callable[[onnx.ModelProto, int, int], Dataset]:
    """Function that gives images for a model; neighbouring values are alike, as in real images."""

    def make(model: onnx.ModelProto, count: int, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        arrays = {}
        for spec in TensorSpec.inputs_of(model):
            assert spec.shape is not None
            sizes = [size if isinstance(size, int) else count for size in spec.shape]
            noise = rng.integers(-8, 9, sizes)
            alike = noise + rng.integers(-8, 9, [count, *[1] * (len(sizes) - 1)])
            arrays[spec.name] = alike.astype(np.float32) / 4
        return Dataset.from_arrays(arrays, inputs=TensorSpec.inputs_of(model))

    return make


@pytest.fixture
def context(images: Callable[[onnx.ModelProto, int, int], Dataset]) -> Callable[[onnx.ModelProto], Context]:
    """Function that gives a context with calibration samples for a model, on x86 with VNNI."""

    def make(model: onnx.ModelProto, target: str = "x86-avx512-vnni", count: int = 24) -> Context:
        return Context(target=Target.load(target), calibration=images(model, count, 0))

    return make

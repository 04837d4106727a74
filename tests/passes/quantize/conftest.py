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


def _array(rng: np.random.Generator, spec: TensorSpec, count: int) -> np.ndarray:
    assert spec.dtype is not None
    assert spec.shape is not None
    sizes = [size if isinstance(size, int) else count for size in spec.shape]
    if sizes and sizes[0] == 1:
        sizes[0] = count  # samples for a model of fixed batch size
    # Whole numbers, so that sums are exact in any order and the result is the same on every machine.
    return rng.integers(-8, 9, sizes).astype(spec.dtype)


@pytest.fixture
def context() -> Callable[[onnx.ModelProto], Context]:
    """Function that gives a context with calibration samples for a model, on x86 with VNNI."""

    def make(model: onnx.ModelProto, target: str = "x86-avx512-vnni", count: int = 4) -> Context:
        rng = np.random.default_rng(0)
        specs = TensorSpec.inputs_of(model)
        data = Dataset.from_arrays({spec.name: _array(rng, spec, count) for spec in specs}, inputs=specs)
        return Context(target=Target.load(target), calibration=data)

    return make

from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing import golden_cases, parse_case
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/factorize"), ids=lambda path: path.stem)
def test_factorize(case, golden):
    specs = TensorSpec.inputs_of(read_model(parse_case(case.read_text()).before))
    shape = (16, *specs[0].shape[1:])
    images = np.random.default_rng(0).integers(-8, 9, shape).astype(np.float32)
    data = Dataset.from_arrays({"x": images}, inputs=specs)
    golden(case, Context(target=Target.load("x86-avx2"), calibration=data))

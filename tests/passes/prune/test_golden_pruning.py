from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing import golden_cases, parse_case
from lpcc.testing.golden import read_model


def context(case, target):
    specs = TensorSpec.inputs_of(read_model(parse_case(case.read_text()).before))
    shape = (16, *specs[0].shape[1:])
    # Whole numbers, so that sums are exact in any order and the result is the same on every machine.
    images = np.random.default_rng(0).integers(-8, 9, shape).astype(np.float32)
    return Context(target=target, calibration=Dataset.from_arrays({"x": images}, inputs=specs))


@pytest.mark.parametrize("case", golden_cases("golden/prune-channels"), ids=lambda path: path.stem)
def test_prune_channels(case, golden):
    golden(case, context(case, None))


@pytest.mark.parametrize("case", golden_cases("golden/trim"), ids=lambda path: path.stem)
def test_trim(case, golden):
    golden(case, context(case, Target.load("x86-avx2")))

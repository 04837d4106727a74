from __future__ import annotations

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing import check_golden, golden_cases, parse_case
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/mixed-precision"), ids=lambda path: path.stem)
def test_golden(case, request):
    specs = TensorSpec.inputs_of(read_model(parse_case(case.read_text()).before))
    # Whole numbers, so that sums are exact in any order and the result is the same on every machine.
    images = np.random.default_rng(0).integers(-8, 9, (8, 4, 4, 4)).astype(np.float32)
    data = Dataset.from_arrays({"x": images}, inputs=specs)
    context = Context(target=Target.load("x86-avx512-vnni"), calibration=data)
    check_golden(case, context, update=bool(request.config.getoption("--update-golden")))

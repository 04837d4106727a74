from __future__ import annotations

import pytest

from lpcc.testing import check_golden, golden_cases, parse_case
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/quantize"), ids=lambda path: path.stem)
def test_golden(case, context, request):
    model = read_model(parse_case(case.read_text()).before)
    check_golden(case, context(model), update=bool(request.config.getoption("--update-golden")))

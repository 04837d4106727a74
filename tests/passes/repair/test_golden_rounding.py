from __future__ import annotations

import pytest

from lpcc.testing import check_golden, golden_cases, parse_case
from lpcc.testing.golden import read_model

CASES = [case for name in ("adaround", "refit", "round-weights") for case in golden_cases(f"golden/{name}")]


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden(case, context, request):
    model = read_model(parse_case(case.read_text()).before)
    check_golden(case, context(model), update=bool(request.config.getoption("--update-golden")))

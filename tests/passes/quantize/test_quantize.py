from __future__ import annotations

import pytest

from lpcc.testing import check_golden, golden_cases, parse_case
from lpcc.testing.golden import read_model


@pytest.mark.parametrize("case", golden_cases("golden/quantize"), ids=lambda path: path.stem)
def test_golden(case, context, request):
    found = parse_case(case.read_text())
    target = found.settings.get("target", "x86-avx512-vnni")
    check_golden(
        case, context(read_model(found.before), target), update=bool(request.config.getoption("--update-golden"))
    )

from __future__ import annotations

import pytest

from lpcc.testing import golden_cases


@pytest.mark.parametrize("case", golden_cases("golden/recognise-channel-shuffle"), ids=lambda path: path.stem)
def test_golden(case, golden):
    golden(case)

"""For authors of passes: the golden and equivalence checks that the built-in passes are held to.

Golden cases are text files, see `lpcc.testing.golden`. In a `conftest.py`::

    pytest_plugins = ["lpcc.testing.plugin"]       # adds the option --update-golden and the fixture `golden`

and in a test::

    @pytest.mark.parametrize("case", golden_cases("golden/fold-bn"), ids=lambda path: path.stem)
    def test_golden(case, golden):
        golden(case)
"""

from lpcc.equality import random_feeds
from lpcc.testing.equivalence import assert_equivalent
from lpcc.testing.golden import GoldenError, check_golden, golden_cases, parse_case

__all__ = ["GoldenError", "assert_equivalent", "check_golden", "golden_cases", "parse_case", "random_feeds"]

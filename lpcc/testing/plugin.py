"""Pytest plugin: the option ``--update-golden`` and the fixture `golden`, which checks or rewrites one golden case."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from lpcc.testing.golden import check_golden


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected parts of golden cases")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`check_golden`, which rewrites the case under ``--update-golden``."""
    return partial(check_golden, update=bool(request.config.getoption("--update-golden")))

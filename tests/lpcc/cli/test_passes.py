from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lpcc.passes import BUILTIN, NAMED


def test_lists_all(lpcc: Callable[..., Any]) -> None:
    done = lpcc("passes")
    assert done.code == 0
    first = [line.split()[0] for line in done.out.splitlines() if line]
    assert {kind.name for kind in BUILTIN} | set(NAMED) <= set(first)


@pytest.mark.parametrize("kind", BUILTIN, ids=lambda kind: kind.name)
def test_explains_each(lpcc: Callable[..., Any], kind: Any) -> None:
    from lpcc.pipeline.syntax import options_of

    done = lpcc("passes", kind.name)
    assert done.code == 0
    assert done.out.startswith(f"{kind.name} ({kind.fidelity.value}")
    assert all(f"\n{option} " in done.out for option in options_of(kind))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_explains_named_pipelines(lpcc: Callable[..., Any], name: str) -> None:
    assert "A named pipeline" in lpcc("passes", name).out


def test_unknown(lpcc: Callable[..., Any]) -> None:
    done = lpcc("passes", "fold-nb")
    assert done.code == 2
    assert "did you mean fold-bn" in done.error

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lpcc.targets.fit.memory import Row, checks, fit, read


def row(number: int, **changes: object) -> Row:
    """A network of `number` layers whose runtime takes 2 KiB for each, its code 10 and 1 for each."""
    made = Row(
        name=f"net {number}",
        family=f"family {number % 3}",
        integer=True,
        runtime_kib=2.0 * number,
        ram_kib=100 + 2.0 * number,
        flash_kib=60 + number,
        weights_kib=50,
        code_kib=10 + number,
        arena=100 * 1024,
        stored=50 * 1024,
        amounts=(number, number, 5),
    )
    return replace(made, **changes)


def test_what_the_table_was_made_with_is_found() -> None:
    rows = [row(n) for n in (3, 5, 8, 13)]
    found = fit([*rows, row(20, integer=False, code_kib=1.0, runtime_kib=1.0)])
    assert [r.ram(found) for r in rows] == pytest.approx([r.ram_kib for r in rows], rel=1e-2)
    assert [r.flash(found) for r in rows] == pytest.approx([r.flash_kib for r in rows], rel=1e-2)


def test_another_network_is_told_by_its_weights() -> None:
    assert row(3).same_network
    assert not row(3, stored=60 * 1024).same_network


def test_published_memory_is_met_held_out(truth: Path) -> None:
    assert sum(r.same_network for r in read(truth)) >= 15
    for check in checks(truth):
        assert check.met, check

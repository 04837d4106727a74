from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lpcc.errors import UsageError
from lpcc.report.plain import from_plain, to_plain


@dataclass(frozen=True)
class Inner:
    x: float | None
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    counts: Mapping[str, int]
    options: Mapping[str, Any]
    sure: bool = False


OUTER = Outer("n", (Inner(1.5), Inner(None, "b")), {"z": 1, "a": 2}, {"skip": ["x"]})


def test_there_and_back() -> None:
    plain = to_plain(OUTER)
    assert plain["inner"][1] == {"x": None, "kind": "b"}
    assert list(plain["counts"]) == ["z", "a"]
    assert from_plain(Outer, plain) == OUTER


def test_numbers_that_json_cannot_say_and_those_of_numpy() -> None:
    assert to_plain([math.nan, math.inf, np.float32(0.5), np.int64(3), np.bool_(True), Path("a")]) == [
        None, None, 0.5, 3, True, "a",
    ]  # fmt: skip
    assert type(to_plain(np.int64(3))) is int
    assert to_plain(np.float32("nan")) is None
    with pytest.raises(TypeError, match="set"):
        to_plain({1, 2})


def test_a_whole_number_is_a_number() -> None:
    assert from_plain(Inner, {"x": 2}) == Inner(2.0)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": 1}, "name"),
        ({"inner": [{"x": "1"}]}, r"inner\[0\]\.x"),
        ({"inner": [{"x": 1.0, "kind": "c"}]}, r"inner\[0\]\.kind"),
        ({"inner": [3]}, r"inner\[0\]"),
        ({"counts": {"a": 1.5}}, r"counts\.a"),
        ({"sure": 1}, "sure"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError, match=f"not a report: {where} "):
        from_plain(Outer, to_plain(OUTER) | change)


def test_missing_and_unknown_keys() -> None:
    plain = to_plain(OUTER) | {"of a later version": 1}
    assert from_plain(Outer, plain) == OUTER
    del plain["name"]
    with pytest.raises(UsageError, match="name is missing"):
        from_plain(Outer, plain)
    with pytest.raises(UsageError, match="must be an object"):
        from_plain(Outer, [])

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lpcc.analysis.geometry import Geometry
from lpcc.cost.terms import QUANTITIES, Term

KERNEL = SimpleNamespace(
    macs=1000,
    elements=50,
    bytes=400,
    weight_bytes=100,
    inputs=(SimpleNamespace(nbytes=200),),
    outputs=(SimpleNamespace(nbytes=90), SimpleNamespace(nbytes=10)),
    op="com.microsoft::QuickGelu",
    blocked=True,
    geometry=Geometry(batch=2, groups=3, cin=5, cout=18, kh=3, kw=1, sh=2, oh=7, ow=3),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("one", 1),
        ("macs", 1000),
        ("runs(QuickGelu)*macs", 1000),
        ("runs(Gelu)", 0),
        ("[blocked=1]*macs", 1000),
        ("input_bytes*outputs", 400),
        ("output_bytes", 100),
        ("rows", 42),
        ("depth", 15),
        ("ceil(rows/4)*ceil(cout/16)*depth", 11 * 2 * 15),
        ("floor(cout/16) * mod(cout,16)", 2),
        ("over(cout,16)", 2),
        ("over(cout,18)", 0),
        ("macs*[kh=3]", 1000),
        ("macs*[kh=1]", 0),
        ("macs*[sh>1]*[cin<6]", 1000),
        ("macs*[sh>1&cin>5]", 0),
        ("macs*![sh>1&cin>5]", 1000),
        ("[cout%16=2]", 1),
        ("blocks(oh,4)", 3),  # 4 + 2 + 1
        ("blocks(cout,4)", 5),
    ],
)
def test_value(text: str, value: float) -> None:
    term = Term.parse(text)
    assert term(KERNEL) == value
    assert str(term) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "factor `` is none of"),
        ("macs*", "factor `` is none of"),
        ("2*macs", "factor `2`"),
        ("ceil(rows/0)", "factor `ceil"),
        ("colums", "quantity `colums`"),
        ("[cim=3]", "quantity `cim`, which is not known; nearest: `cin`"),
        ("max(rows,4)", "factor `max"),
        ("[cin>3&]", "condition `` is none of"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        Term.parse(text)


def test_every_quantity_has_a_value() -> None:
    assert all(Term.parse(name)(KERNEL) >= 1 for name in QUANTITIES)

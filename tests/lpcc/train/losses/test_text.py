"""The text form of losses: what it means, that it is printed as it was read, and what is said of what it is not."""

from __future__ import annotations

import inspect

import pytest

from lpcc.errors import UsageError
from lpcc.pipeline.base import Range
from lpcc.pipeline.syntax import describe, options_of

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses import LOSSES, Loss, Part, format_losses, parse  # noqa: E402
from lpcc.train.losses.layers import Correlation, Hints  # noqa: E402
from lpcc.train.losses.order import Order  # noqa: E402
from lpcc.train.losses.outputs import HardLabels, SoftTargets  # noqa: E402


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("kd", [Part(SoftTargets())]),
        ("kd+hint", [Part(SoftTargets()), Part(Hints())]),
        ("kd*0.7+hint*0.1", [Part(SoftTargets(), 0.7), Part(Hints(), 0.1)]),
        ("kd{temperature=8.0}*2+order{margin=1.0}", [Part(SoftTargets(8.0), 2.0), Part(Order(1.0))]),
        ("correlation{order=3 layers=all}", [Part(Correlation(order=3, layers="all"))]),
    ],
)
def test_means_what_it_says_and_prints_so(text: str, parts: list[Part]) -> None:
    assert list(parse(text)) == parts
    assert format_losses(parts) == text


def test_parts_may_stand_between_commas_or_come_one_by_one() -> None:
    expected = parse("kd+hint*0.1")
    assert parse("kd,hint*0.1") == expected
    assert parse(["kd", "hint*0.1"]) == expected
    assert parse((SoftTargets(), Part(Hints(), 0.1))) == expected


def test_a_weight_that_is_not_given_is_the_losses_own() -> None:
    (kd, hint, half) = parse("kd+hint+hint*0.5")
    assert (kd.weight, hint.weight, half.weight) == (1.0, Hints.weight, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", r"losses `kdd`, column 1: unknown loss `kdd`; did you mean kd\? known: attention, auto, correlation"),
        ("kd+hints", r"column 4: unknown loss `hints`; did you mean hint or logits\?"),
        ("kd{temprature=4}", r"column 4: loss `kd` has no option `temprature`; did you mean temperature\?"),
        ("kd{temperature=0}", r"option `temperature` takes a number between 0.1 and 100, not `0`"),
        ("hard{smoothing=1}", r"option `smoothing` takes a number between 0 and 0.9, not `1`"),
        ("correlation{layers=first}", "option `layers` takes one of last, all, not `first`"),
        ("kd*x", "column 4: the weight of `kd` is a number above 0 and up to 100000, not `x`"),
        ("kd*0", "not `0`"),
        ("kd*-1", "not `-1`"),
        ("kd*nan", "not `nan`"),
        ("kd*", "expected a weight"),
        ("kd+", "expected the name of a loss"),
        ("", "expected the name of a loss"),
        ("kd hint", "expected `+`, not ` `"),
        ("kd{temperature=4", "expected a space, `}`"),
    ],
)
def test_says_where_it_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("`+`", r"`\+`")) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_no_losses_are_refused() -> None:
    with pytest.raises(UsageError, match="no loss is given"):
        parse([])


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_has_an_equation_a_source_and_described_options(kind: type[Loss]) -> None:
    told = inspect.getdoc(kind) or ""
    if kind.name != "auto":
        assert " = " in told
        assert any(str(year) in told for year in range(2005, 2025))
    assert parse(kind.name)[0].loss == kind()
    for annotation, default in options_of(kind).values():
        assert describe(annotation)
        bounds = next((extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, Range)), None)
        assert bounds is None or default in bounds


def test_names_are_distinct() -> None:
    assert len({kind.name for kind in LOSSES}) == len(LOSSES)
    assert HardLabels.name in {kind.name for kind in LOSSES}

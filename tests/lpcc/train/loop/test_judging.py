from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lpcc.data.source import Block
from lpcc.errors import DataError, UsageError
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.judging import Judge, Run, Verdict  # noqa: E402
from lpcc.train.loop.running import Device, Part  # noqa: E402

ROWS = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 1]]
"""Class scores: what a perfect student would say."""
LABELS = np.array([0, 1, 2, 3, 4, 0, 1])


def judge(metric: str | None, *, labels: bool, rows: int = 3, fixed: bool = False) -> Judge:
    return Judge(
        Block({"x": ROWS}, LABELS if labels else None), metric, Device.of(Recipe()), rows, fixed=fixed, sampled=True
    )


def running(wrong: int, *, teaches: bool = True, flat: bool = False) -> Run:
    """A student that is wrong on the samples of class `wrong`, and whose loss is 1 on these and 0 elsewhere."""

    def run(part: Part) -> Any:
        x = part.valid(part.feeds)["x"]
        bad = x.argmax(1) == wrong
        y = torch.where(bad[:, None], x.roll(1, 1), x)
        shape = (len(x), 5, 1, 1) if not flat else (len(x), 1, 5)
        taught = {"y": x.reshape(shape)} if teaches else {}
        return {"y": y.reshape(shape)}, taught, bad.float().mean(), {}

    return run


@pytest.mark.parametrize("fixed", [False, True])
def test_metric_and_loss_over_all_samples_but_padding(fixed: bool) -> None:
    found = judge("agreement", labels=False, fixed=fixed)(running(wrong=0))
    assert found.value == pytest.approx(100 * 5 / 7)
    assert found.loss == pytest.approx(2 / 7)


def test_few_choices_are_not_counted() -> None:
    for labels, flat, name in ((False, False, "loss"), (True, False, "loss"), (False, True, "sqnr")):
        asked = judge(None, labels=labels)
        asked(running(3, flat=flat))
        assert asked.name == name


@pytest.mark.parametrize(
    ("labels", "teaches", "flat", "name", "higher"),
    [
        (True, True, False, "top1", True),
        (True, False, False, "top1", True),
        (False, True, False, "agreement", True),
        (False, True, True, "sqnr", True),
        (True, True, True, "sqnr", True),
        (False, False, False, "loss", False),
        (True, False, True, "loss", False),
    ],
)
def test_what_tells_the_best_where_nothing_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, labels: bool, teaches: bool, flat: bool, name: str, higher: bool
) -> None:
    monkeypatch.setattr("lpcc.train.loop.judging._COUNTED", 1)
    asked = judge(None, labels=labels)
    found = asked(running(3, teaches=teaches, flat=flat))
    assert (asked.name, asked.higher_is_better) == (name, higher)
    if name in ("top1", "agreement"):
        assert found.value == pytest.approx(100 * 6 / 7)
    if name == "loss":
        assert found.value == found.loss == pytest.approx(1 / 7)


def test_each_time_anew() -> None:
    asked = judge("top1", labels=True)
    assert [asked(running(wrong)).value for wrong in (9, 2, 9)] == pytest.approx([100, 100 * 6 / 7, 100])


def test_metrics_that_need_what_is_not_there() -> None:
    with pytest.raises(DataError, match="metric top1 needs labels, which the training data has not"):
        judge("top1", labels=False)(running(0))
    with pytest.raises(UsageError, match="metric agreement compares with a teacher, and there is none"):
        judge("agreement", labels=True)(running(0, teaches=False))
    with pytest.raises(UsageError, match="unknown metric `agreemint`: did you mean `agreement`"):
        judge("agreemint", labels=True)(running(0))


def test_better_is_more_or_less_and_nan_is_worst() -> None:
    def beats(a: float, b: float, higher: bool) -> bool:
        return Verdict(a, 0).beats(Verdict(b, 0), higher=higher)

    assert beats(2, 1, True)
    assert not beats(1, 2, True)
    assert beats(1, 2, False)
    for higher in (True, False):
        assert not beats(1, 1, higher)
        assert beats(1, math.nan, higher)
        assert not beats(math.nan, 1, higher)
        assert not beats(math.nan, math.nan, higher)


def test_the_loss_decides_between_equals() -> None:
    low, high = Verdict(50, 1), Verdict(50, 2)
    assert low.beats(high, higher=True)
    assert not high.beats(low, higher=True)
    assert not low.beats(low, higher=True)
    assert low.beats(Verdict(50, math.nan), higher=True)

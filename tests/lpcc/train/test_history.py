from __future__ import annotations

import json
import math

from lpcc.train.history import Epoch, History, amount


def history() -> History:
    return History(
        metric="agreement",
        higher_is_better=True,
        samples=90,
        held_out=10,
        start=40.0,
        start_loss=2.0,
        epochs=[Epoch(1, 1.5, {"kd": 1.5}, 0.1, 60.0, 1.25, 2.5), Epoch(2, 1.0, {"kd": 1.0}, 0.01, 50.0, 1.5, 3.0)],
        best=1,
        stopped="all epochs done; the weights of epoch 1 are kept, the best",
    )


def test_json_gives_the_history_again() -> None:
    assert History.from_json(json.loads(json.dumps(history().to_json(), allow_nan=False))) == history()


def test_numbers_that_json_has_not() -> None:
    found = history()
    found.start, found.start_loss = math.inf, math.nan
    found.epochs[0] = Epoch(1, math.nan, {"kd": -math.inf}, 0.1, None, None, 1.0)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (data["start"], data["start_loss"]) == (200.0, None)
    assert (data["epochs"][0]["loss"], data["epochs"][0]["parts"]) == (None, {"kd": -200.0})


def test_as_text() -> None:
    assert history().lines() == [
        "start: held out 2, agreement 40.00%",
        "epoch 1: loss 1.5, held out 1.25, agreement 60.00%, rate 0.1, 2.5 s  <- kept",
        "epoch 2: loss 1, held out 1.5, agreement 50.00%, rate 0.01, 3.0 s",
        "all epochs done; the weights of epoch 1 are kept, the best",
    ]


def test_as_text_with_nothing_held_out() -> None:
    found = History("", False, 90, 0, None, None, [Epoch(1, 1.5, {}, 0.1, None, None, 2.5)], 1, "all epochs done")
    assert found.lines() == ["epoch 1: loss 1.5, rate 0.1, 2.5 s  <- kept", "all epochs done"]


def test_the_metric_that_was_kept() -> None:
    found = history()
    assert (found.best_metric, found.seconds) == (60.0, 5.5)
    found.best = 0
    assert found.best_metric == 40.0


def test_units() -> None:
    assert amount("top1", 87.3) == "top1 87.30%"
    assert amount("sqnr", 20) == "sqnr 20.00 dB"
    assert amount("loss", 0.12345) == "loss 0.1235"

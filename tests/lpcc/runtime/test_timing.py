from __future__ import annotations

import gc
import json
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import ModelError
from lpcc.runtime import Session, compare, measure, turns

FEEDS = {"x": np.ones((64, 64), np.float32)}


def chain(length: int) -> Session:
    """`length` matrix products in a row."""
    names = ["x", *(f"t{i}" for i in range(length))]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    w = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])
    y = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [64, 64])
    graph = helper.make_graph(nodes, "g", [x], [y], [w])
    return Session(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))


def test_the_longer_model_takes_longer() -> None:
    result = compare(chain(4), chain(64), FEEDS, seconds=0.2)
    assert result.ratio > 4
    assert result.pairs >= 15
    assert result.a.runs == result.b.runs == result.pairs
    assert 0 < result.a.fastest_ms <= result.a.median_ms < result.b.median_ms
    assert json.loads(json.dumps(result.to_json()))["ratio"] == result.ratio


def test_a_model_is_as_fast_as_itself() -> None:
    session = chain(64)
    assert 0.8 < compare(session, session, FEEDS, seconds=0.3).ratio < 1.25


def test_runs_until_both_limits_are_reached() -> None:
    shares: list[float] = []
    timing = measure(chain(2), FEEDS, seconds=0.0, min_runs=20, progress=shares.append)
    assert timing.runs == 20
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert measure(chain(2), FEEDS, seconds=0.05, min_runs=1).runs > 20


def test_leaves_the_garbage_collector_as_it_was() -> None:
    session = chain(1)
    assert gc.isenabled()
    measure(session, FEEDS, seconds=0.0, min_runs=1)
    assert gc.isenabled()
    gc.disable()
    try:
        measure(session, FEEDS, seconds=0.0, min_runs=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_model_that_cannot_run_is_refused() -> None:
    with pytest.raises(ModelError, match="could not run"):
        measure(chain(1), {"x": np.ones((2, 2), np.float32)})


def test_several_models_run_in_turns() -> None:
    ran: list[int] = []

    class Recorded:
        def __init__(self, number: int) -> None:
            self.raw = self
            self.number = number

        def run(self, *_: object) -> None:
            ran.append(self.number)

    sessions = [Recorded(number) for number in range(3)]
    times = turns(sessions, {}, seconds=0.0, min_rounds=4)  # type: ignore[arg-type]
    assert [len(mine) for mine in times] == [4, 4, 4]
    assert ran[-12:] == [0, 1, 2] * 4

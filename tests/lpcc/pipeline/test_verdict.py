from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.pipeline.verdict import Verdict, int8_verdict
from lpcc.runtime import TensorSpec
from lpcc.target import Target


def network() -> gs.Graph:
    """Conv and Relu6, residual block, pooling, fully connected; at the end a Tanh, which stays in float."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in {"w0": (16, 3, 3, 3), "w1": (16, 1, 3, 3), "w2": (16, 16, 1, 1), "w3": (10, 16)}.items()
    } | {"low": np.float32(0), "high": np.float32(6)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1] * 4),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="clip"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="dw", pads=[1] * 4, group=16),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="pw"),
        helper.make_node("Add", ["e", "b"], ["f"], name="sum"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["h"], name="flat"),
        helper.make_node("Gemm", ["h", "w3"], ["i"], name="fc", transB=1),
        helper.make_node("Tanh", ["i"], ["y"], name="tanh"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    loaded = from_proto(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    annotate(loaded)
    return loaded


@pytest.mark.parametrize("name", ["arm-cortex-a72", "arm-cortex-a76", "x86-avx512-vnni", "arm-cortex-m7"])
def test_is_what_the_quantised_network_costs(name: str) -> None:
    target = Target.load(name)
    verdict = int8_verdict(network(), target)
    specs = TensorSpec.inputs_of(to_proto(network()))
    images = {"x": np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32)}
    ctx = Context(target=target, calibration=Dataset.from_arrays(images, inputs=specs))
    graph = network()
    run_pipeline(graph, Pipeline.parse("exact").passes, ctx)
    exact = CostModel(target).estimate(graph).latency_ms
    everything = name == "x86-avx512-vnni"  # nothing pays there
    run_pipeline(graph, Pipeline.parse("quantize{min-work=0}" if everything else "quantize").passes, ctx)
    annotate(graph)
    int8 = CostModel(target).estimate(graph).latency_ms
    assert verdict is not None
    assert (verdict.float_ms, verdict.int8_ms) == (pytest.approx(exact), pytest.approx(int8, rel=1e-2))
    assert verdict.speedup == pytest.approx(exact / int8, rel=1e-2)


def test_says_which_layers_gain() -> None:
    verdict = int8_verdict(network(), Target.load("arm-cortex-a76"))
    assert verdict is not None
    assert set(verdict.layers) >= {"stem", "dw", "sum"}
    assert "tanh" not in verdict.layers
    assert all(gain > 0 for gain in verdict.layers.values())
    assert verdict.conversions_ms > 0


def test_slower_where_integers_are_slow() -> None:
    fast = Target.load("arm-cortex-a72")
    rates = fast.compute["float32"]
    slow = replace(
        fast, tables=type(fast.tables)(), compute={"float32": rates, "int8": replace(rates, macs_per_cycle=1)}
    )
    verdict = int8_verdict(network(), slow)
    assert verdict is not None
    assert verdict.speedup < 1
    assert verdict.layers["stem"] < 1
    assert str(verdict) == f"int8 is {1 / verdict.speedup:.2f} times slower here"


def test_faster_in_words() -> None:
    assert str(Verdict(3.0, 2.0, 0.1, {})) == "int8 is 1.50 times faster here"


def test_none_without_kernels_or_layers() -> None:
    target = Target.load("arm-cortex-a72")
    assert int8_verdict(network(), replace(target, int8=None)) is None
    quantised = network()
    *exact, quantize = Pipeline.parse("exact,quantize").passes
    for item in exact:
        item.run(quantised, Context(target=target))
    quantize.sketch(quantised, Context(target=target))
    annotate(quantised)
    assert int8_verdict(quantised, target) is None


def test_leaves_the_graph_alone() -> None:
    graph = network()
    before = to_proto(graph).SerializeToString(deterministic=True)
    int8_verdict(graph, Target.load("arm-cortex-a72"))
    assert to_proto(graph).SerializeToString(deterministic=True) == before

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel
from lpcc.graph import clone, from_proto, load
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.target import Target

RNG = np.random.default_rng(0)
SHAPE = (64, 64, 3, 3)


def price(target: str, weights: NDArray[np.float32], *, sign: bool = False) -> Cost:
    nodes = [helper.make_node("Sign", ["x"], ["s"])] if sign else []
    nodes.append(helper.make_node("Conv", ["s" if sign else "x", "w"], ["y"], name="conv", pads=[1] * 4))
    shape = [1, 64, 28, 28]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    loaded = from_proto(model)
    annotate(loaded)
    return CostModel(Target.load(target)).estimate(loaded)


def dense() -> NDArray[np.float32]:
    return RNG.standard_normal(SHAPE).astype(np.float32)


def powers() -> NDArray[np.float32]:
    return np.exp2(RNG.integers(-6, 1, SHAPE)).astype(np.float32)


def two_powers() -> NDArray[np.float32]:
    return powers() + np.exp2(np.float32(-9)) * np.float32(1)


def binary() -> NDArray[np.float32]:
    return RNG.choice([-0.5, 0.5], SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "weights", "sign", "unit"),
    [
        ("shift", dense, False, "mac"),
        ("shift", powers, False, "shift_add"),
        ("shift", two_powers, False, "shift_add"),
        ("shift", binary, False, "add"),
        ("xnor", powers, False, "mac"),
        ("xnor", binary, False, "add"),
        ("xnor", binary, True, "xnor"),
        ("xnor", dense, True, "mac"),
    ],
)
def test_the_unit_follows_from_the_weights(
    target: str, weights: Callable[[], NDArray[np.float32]], sign: bool, unit: str
) -> None:
    cost = price(target, weights(), sign=sign)
    layer = cost.layers[-1]
    assert unit in layer.counts
    assert any("multipliers" in note for note in cost.assumptions) == (unit == "mac")


def test_each_form_costs_less_than_the_one_before() -> None:
    found = [price("shift", make()) for make in (dense, two_powers, powers)]
    assert found[0].latency_ms > found[1].latency_ms > found[2].latency_ms
    assert found[0].energy_mj > found[1].energy_mj > found[2].energy_mj
    xnor = price("xnor", binary(), sign=True).layers[-1]
    assert xnor.latency_ms < found[2].latency_ms / 8


@pytest.mark.parametrize("name", ["shift", "xnor", "eyeriss"])
def test_the_format_of_the_graph_changes_nothing(name: str) -> None:
    found = set()
    for dtype in ("float", "float16", "int64", "double"):
        text = f'<ir_version: 9, opset_import: ["": 17]> g ({dtype}[4,64] x) => ({dtype}[4,64] y) {{ y = Add(x, x) }}'
        graph = from_proto(onnx.parser.parse_model(text))
        annotate(graph)
        found.add(CostModel(Target.load(name)).estimate(graph).energy_mj)
    assert len(found) == 1


@pytest.fixture(scope="module")
def resnet(zoo: Any) -> Callable[[str, str], Cost]:
    exact = load(zoo.model("cifar10_resnet20_jpegft"))
    run_pipeline(exact, Pipeline.parse("exact"), Context())

    def cost(options: str, target: str) -> Cost:
        graph = clone(exact)
        run_pipeline(graph, Pipeline.parse(f"quantize-weights{{{options}}}") if options else (), Context())
        return CostModel(Target.load(target)).estimate(graph)

    return cost


def units(cost: Cost) -> Counter[str]:
    """How many layers run on which unit."""
    names = ("mac", "shift_add", "add", "xnor")
    return Counter(name for layer in cost.layers if layer.macs for name in names if name in layer.counts)


@pytest.mark.parametrize(
    ("options", "target", "expected"),
    [
        ("", "shift", {"mac": 20}),
        ("format=int8", "shift", {"mac": 20}),
        ("format=pow2", "shift", {"shift_add": 20}),
        ("format=pow2 k=2", "shift", {"shift_add": 20}),
        ("format=pow2 k=2 scale=power", "shift", {"shift_add": 20}),
        ("format=flightnn", "shift", {"shift_add": 20}),
        ("format=pow2 k=3", "shift", {"mac": 20}),
        ("format=pow2", "xnor", {"mac": 20}),
        ("format=ternary", "shift", {"mac": 2, "add": 18}),
        ("format=ttq", "shift", {"mac": 2, "add": 18}),
        ("format=binary", "xnor", {"mac": 2, "add": 18}),
        ("format=xnor", "xnor", {"mac": 2, "xnor": 18}),
    ],
)
def test_a_network_is_priced_by_what_its_weights_are(
    resnet: Callable[[str, str], Cost], options: str, target: str, expected: dict[str, int]
) -> None:
    found = resnet(options, target)
    assert units(found) == expected
    assert found.parameters == sum(layer.parameters for layer in found.layers) == resnet("", target).parameters


def test_fewer_terms_cost_less(resnet: Callable[[str, str], Cost]) -> None:
    """FLightNN lies between sums of one and of two powers of two."""
    found = [resnet(options, "shift") for options in ("format=pow2", "format=flightnn", "format=pow2 k=2", "")]
    assert [cost.energy_mj for cost in found] == sorted(cost.energy_mj for cost in found)
    assert [cost.latency_ms for cost in found] == sorted(cost.latency_ms for cost in found)
    assert found[0].latency_ms < found[3].latency_ms / 3


def test_engines_see_shared_weights(resnet: Callable[[str, str], Cost]) -> None:
    """15 different integers can be named by 4 bits; 255 cannot."""
    assert any("different weights" in note for note in resnet("format=int8", "eie").assumptions)
    assert not any("different weights" in note for note in resnet("format=int4", "eie").assumptions)

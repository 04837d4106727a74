from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from lpcc.calibrate.partial import Walk, order, part
from lpcc.data import Dataset
from lpcc.errors import ModelError
from lpcc.graph import load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, with_outputs

RESNET = "mlperf_resnet8_cifar10"


def chain() -> onnx.ModelProto:
    return parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y) <float[2,2] v = {1, 2, 3, 4}, float[2,2] w = {1, 0, 0, 1}>
{
    a = MatMul(x, v)
    b = Relu(a)
    t = Transpose(w)
    c = MatMul(b, t)
    y = Add(c, a)
}""")


def branches() -> onnx.ModelProto:
    return parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2] k = {1, 2}, bool yes = {1}>
{
    a = Add(x, k)
    b = Mul(a, a)
    c = If(yes) <then_branch = t () => (float[N,2] u) { u = Sub(b, x) },
                 else_branch = e () => (float[N,2] v) { v = Neg(a) }>
    d = Mul(c, k)
    y = Add(d, a)
}""")


FEEDS = [{"x": np.random.default_rng(i).standard_normal((size, 2)).astype(np.float32)} for i, size in enumerate((3, 5))]


def test_a_part_runs_only_what_it_needs() -> None:
    found = part(chain(), ["b"])
    assert [node.op_type for node in found.graph.node] == ["MatMul", "Relu"]
    assert [tensor.name for tensor in found.graph.initializer] == ["v"]
    zeros = np.zeros((1, 2), np.float32)
    given_a = part(chain(), ["y"], [{"a": zeros, "x": zeros}])
    assert [info.name for info in given_a.graph.input] == ["a"]
    with pytest.raises(ModelError, match="`nowhere`"):
        part(chain(), ["nowhere"])


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(4, 3, 8), (2, 3, 7)], [None, 3, None]), ([(4, 3), (4, 3)], [None, 3]), ([(4,), ()], None)],
)
def test_inputs_of_a_part_have_the_sizes_that_all_feeds_have(
    shapes: list[tuple[int, ...]], expected: list[int | None] | None
) -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float x) => (float y) { y = Abs(x) }')
    found = part(model, ["y"], [{"x": np.zeros(shape, np.float32)} for shape in shapes]).graph.input[0].type.tensor_type
    assert found.HasField("shape") == (expected is not None)
    if expected is not None:
        assert [dim.dim_value or None for dim in found.shape.dim] == expected


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match="`a` is no tensor"):
        part(chain(), ["y"], [{"a": [np.zeros(2)]}])  # type: ignore[dict-item]


def test_the_order_of_tensors() -> None:
    assert order(chain()) == {"x": -1, "v": -1, "w": -1, "a": 0, "b": 1, "t": 2, "c": 3, "y": 4}


def test_halts_give_what_one_run_gives() -> None:
    names = ["a", "b", "c", "y"]
    session, walk = Session(with_outputs(branches(), names)), Walk(branches(), FEEDS)
    expected = [session.run(feed, names) for feed in FEEDS]
    for name in names:
        for value, run in zip(walk.values(name), expected, strict=True):
            np.testing.assert_allclose(value, run[name], rtol=1e-6)


def test_it_holds_what_is_read_later_or_asked_for() -> None:
    walk = Walk(chain(), FEEDS)
    assert set(walk.held[0]) == {"x"}
    walk.to("b", keep=["b"])
    assert set(walk.held[0]) == {"a", "b"}
    walk.to("c", keep=["b"])
    assert set(walk.held[0]) == {"a", "b", "c"}  # but not t, which is made of constants alone
    walk.to("c")
    assert set(walk.held[0]) == {"a", "c"}
    walk.to("y")
    assert set(walk.held[0]) == {"y"}


def test_it_does_not_halt_where_too_much_would_be_held() -> None:
    walk = Walk(chain(), FEEDS, limit=10)
    walk.to("b")
    assert set(walk.held[0]) == {"x"}


def test_no_images_go_nowhere() -> None:
    assert Walk(chain(), []).values("y") == []


def test_what_is_replaced_is_what_later_nodes_read() -> None:
    walk = Walk(branches(), FEEDS)
    walk.replace("b", [value + 1 for value in walk.values("b")])
    walk.set_constant("k", np.asarray([10, 20], np.float32))
    for value, feed in zip(walk.values("y"), FEEDS, strict=True):
        a = feed["x"] + [1, 2]  # made before the constant was changed
        np.testing.assert_allclose(value, (a * a + 1 - feed["x"]) * [10, 20] + a, rtol=1e-5)


def test_a_model_may_change_ahead() -> None:
    walk = Walk(chain(), FEEDS)
    walk.to("b")
    other = chain()
    other.graph.node[3].CopyFrom(onnx.helper.make_node("MatMul", ["b", "more"], ["before"]))
    other.graph.node.insert(4, onnx.helper.make_node("Neg", ["before"], ["c"]))
    more = np.array([[5, 0], [1, 2]], np.float32)
    other.graph.initializer.append(onnx.numpy_helper.from_array(more, "more"))
    walk.model = other
    walk.set_constant("v", np.zeros((2, 2), np.float32))  # behind it
    for value, feed in zip(walk.values("y"), FEEDS, strict=True):
        a = feed["x"] @ np.array([[1, 2], [3, 4]], np.float32)
        np.testing.assert_allclose(value, a - np.maximum(a, 0) @ more, rtol=1e-5)


def test_what_is_past_or_unknown_is_refused() -> None:
    walk = Walk(branches(), FEEDS)
    walk.to("d")
    with pytest.raises(ModelError, match="no tensor `b` any more"):
        walk.to("b")  # nothing reads it any more
    with pytest.raises(ModelError, match="nonsense"):
        walk.to("nonsense")
    assert len(walk.values("y")) == len(FEEDS)


def test_a_real_network_halts_at_every_layer(zoo: Any) -> None:
    graph = load(zoo.model(RESNET))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    model = to_proto(graph)
    data = Dataset.from_arrays(zoo.calib(RESNET, 8), inputs=Session(model).inputs)
    feeds = [batch.feeds for batch in data.batches(4)]
    names = [node.outputs[0].name for node in graph.nodes if node.op == "Conv"]
    walk, session = Walk(model, feeds), Session(with_outputs(model, names), optimise=False)
    for name in names:
        np.testing.assert_allclose(walk.values(name)[1], session.run(feeds[1], [name])[name], rtol=1e-3, atol=1e-4)


def test_a_walk_is_the_network(zoo: Any) -> None:
    model = onnx.load(zoo.model(RESNET))
    feed = zoo.calib(RESNET, 8)
    tensors = [node.output[0] for node in model.graph.node][::3]
    walk, expected = Walk(model, [feed]), Session(part(model, tensors)).run(feed, tensors)
    for tensor in tensors:
        np.testing.assert_allclose(walk.values(tensor)[0], expected[tensor], rtol=1e-3, atol=1e-3)

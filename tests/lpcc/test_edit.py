"""Edits go by identity and keep the model sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from lpcc import edit
from lpcc.errors import PassError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.testing import assert_equivalent


def model(body: str, inputs: str = "float[4] x", outputs: str = "float[4] y", weights: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17, "me": 1]> g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}'
    return onnx.parser.parse_model(text.replace(" <> ", " "))


def graph(body: str, inputs: str = "float[4] x", outputs: str = "float[4] y", weights: str = "") -> gs.Graph:
    return from_proto(model(body, inputs, outputs, weights))


BRANCHES = """
    a = Relu(x)
    y = If(c) <
        then_branch: graph = t () => (float[4] t_y) { t_y = Add(a, w) },
        else_branch: graph = e () => (float[4] e_y) {
            e_y = If(c) <
                then_branch: graph = tt () => (float[4] tt_y) { tt_y = Neg(a) },
                else_branch: graph = ee () => (float[4] ee_y) { ee_y = Mul(w, w) }
            >
        }
    >
"""


def branches() -> gs.Graph:
    return graph(BRANCHES, "float[4] x, bool c", weights="float[4] w = {1,2,3,4}")


def ops(g: gs.Graph) -> list[str]:
    return [edit.op(node) for node in g.nodes]


def check(g: gs.Graph) -> onnx.ModelProto:
    """The model of a graph that must be sound, and whose links must agree in both directions."""
    for node in edit.nodes(g):
        for tensor in node.inputs:
            assert sum(user is node for user in tensor.outputs) == sum(t is tensor for t in node.inputs)
        for tensor in node.outputs:
            assert [maker is node for maker in tensor.inputs] == [True]
    made = to_proto(g)
    onnx.checker.check_model(made, full_check=True)
    return made


# Reading ---------------------------------------------------------------------------------------------------------


def test_op_names_the_domain() -> None:
    g = graph("a = ai.onnx.Relu(x) b = me.Relu(a) y = Relu(b)")
    assert ops(g) == ["Relu", "me::Relu", "Relu"]


def test_label() -> None:
    g = graph("y = Relu(x)")
    assert edit.label(g.nodes[0]) == "y"
    g.nodes[0].name = "r"
    assert edit.label(g.nodes[0]) == "r"
    assert edit.label("given") == "given"
    assert edit.label(gs.Node(op="Relu")) == "Relu"


def test_inputs_outputs_and_attributes() -> None:
    g = graph('y, "" = Dropout<seed = 3>(x, "", t)', weights="bool t = {0}")
    [node] = g.nodes
    assert edit.inp(node, 0) is g.inputs[0]
    assert edit.inp(node, 1) is None
    assert edit.inp(node, 2) is node.inputs[2]
    assert edit.inp(node, 3) is None
    assert edit.out(node) is g.outputs[0]
    assert edit.out(node, 1) is None
    assert edit.out(node, 2) is None
    assert edit.attr(node, "seed") == 3
    assert edit.attr(node, "other", 5) == 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(2.5, np.float32), 2.5),
        (np.array([[3]], np.int64), 3.0),
        (np.array([1.5], ml_dtypes.bfloat16), 1.5),
        (np.array(True), 1.0),
        (np.ones(2), None),
        (np.ones(0), None),
        (np.array(["a"], object), None),
        (np.array([1j], np.complex64), None),
    ],
)
def test_scalar(values: np.ndarray[Any, Any], expected: float | None) -> None:
    assert edit.scalar(gs.Constant("c", values)) == expected


def test_what_is_no_constant() -> None:
    assert edit.const(gs.Variable("v")) is None
    assert edit.const(None) is None
    assert edit.scalar(gs.Variable("v")) is None
    assert edit.scalar(None) is None


def test_all_graphs_and_nodes() -> None:
    g = branches()
    assert [scope.name for scope in edit.graphs(g)] == ["g", "t", "e", "tt", "ee"]
    assert [edit.op(node) for node in edit.nodes(g)] == ["Relu", "If", "Add", "If", "Neg", "Mul"]


def test_users_are_found_inside_subgraphs() -> None:
    g = branches()
    a = g.nodes[0].outputs[0]
    with edit.Edit(g) as e:
        assert [edit.op(user) for user in e.users(a)] == ["Add", "Neg"]
        assert e.producer(a) is g.nodes[0]
        assert e.producer(g.inputs[0]) is None
        assert e.producer(None) is None
        assert e.only_user(a) is None
        assert e.only_user(g.outputs[0]) is None
        assert e.owns(g.nodes[0])
        assert not e.owns(e.users(a)[0])


def test_only_user() -> None:
    g = graph("a = Relu(x) b = Neg(a) y = Add(b, b)", outputs="float[4] y")
    with edit.Edit(g) as e:
        assert e.only_user(g.nodes[0].outputs[0]) is g.nodes[1]
        assert e.only_user(g.nodes[1].outputs[0]) is None


def test_a_tensor_that_a_nested_graph_returns_is_an_output() -> None:
    body = helper.make_graph([], "t", [], [helper.make_tensor_value_info("a", 1, [4])])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "e", [], [onnx.ValueInfoProto(name="n")])
    made = model("a = Relu(x) y = Neg(a)", "float[4] x, bool c")
    made.graph.node[1].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other))
    g = from_proto(made)
    a = g.nodes[0].outputs[0]
    assert g.nodes[1].attrs["then_branch"].outputs[0] is a
    with edit.Edit(g) as e:
        assert e.is_output(a)
        assert e.only_user(a) is None


# Names -----------------------------------------------------------------------------------------------------------


def test_names_are_unique_in_the_whole_model() -> None:
    g = graph(BRANCHES, "float[4] x, bool c", weights="float[4] w = {1,2,3,4}, float[1] unused = {1}")
    names = {t.name for node in edit.nodes(g) for t in [*node.inputs, *node.outputs]} | {"unused"}
    for opened in (g, clone(g)):
        taken = set(names)
        for scope in list(edit.graphs(opened))[::-1]:
            with edit.Edit(scope) as e:
                fresh = [e.fresh(name).name for name in [*sorted(names), "new", "new", ""]]
                fresh += [e.constant("new", np.ones(1)).name]
            assert len(set(fresh)) == len(fresh)
            assert not set(fresh) & {*taken, ""}
            taken |= set(fresh)


def test_a_fresh_name_is_the_hint_where_it_is_free() -> None:
    with edit.Edit(graph("y = Relu(x)")) as e:
        assert [e.fresh("new", np.float32, ["N", 3]).name, e.fresh("new").name, e.fresh("x").name] == [
            "new",
            "new_1",
            "x_1",
        ]


def test_many_fresh_names_from_one_hint() -> None:
    with edit.Edit(graph("y = Relu(x)")) as e:
        assert len({e.fresh("t").name for _ in range(20_000)}) == 20_000


# Changing --------------------------------------------------------------------------------------------------------


def test_add_and_remove() -> None:
    g = graph("a = Relu(x) y = Neg(a)")
    relu, neg = g.nodes
    with edit.Edit(g) as e:
        negated = e.fresh("n", np.float32, [4])
        e.add("Neg", [g.inputs[0]], [negated], {"k": 1}, name="first")
        e.replace_input(neg, 0, negated)
        e.remove(relu)
        assert not e.live(relu)
        assert e.live(neg)
        assert len(g.nodes) == 2, "the node list changes at the end of the round"
        assert g.inputs[0].outputs == [negated.inputs[0]]
    del g.nodes[0].attrs["k"]
    assert [node.name for node in g.nodes] == ["first", ""]
    check(g)


def test_a_twin_stays() -> None:
    """graphsurgeon holds nodes of equal content for equal, so its own removal takes the first of them."""
    g = graph("a = Relu(x) b = Relu(x) y = Add(a, b)")
    first, second, _ = g.nodes
    with edit.Edit(g) as e:
        e.replace_uses(second.outputs[0], first.outputs[0])
        e.remove(second)
    assert g.nodes[0] is first
    assert len(g.inputs[0].outputs) == 1
    assert g.inputs[0].outputs[0] is first
    check(g)


def test_remove_takes_what_its_subgraphs_read() -> None:
    g = branches()
    a = g.nodes[0].outputs[0]
    with edit.Edit(g) as e:
        e.remove(g.nodes[1])
        assert e.users(a) == []


def test_nothing_is_rebuilt_where_the_block_raises() -> None:
    g = graph("a = Relu(x) y = Neg(a)")
    nodes = list(g.nodes)

    def fail() -> None:
        with edit.Edit(g) as e:
            e.add("Neg", [g.inputs[0]], [e.fresh("n")])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(now is then for now, then in zip(g.nodes, nodes, strict=True))


def test_replace_input_fills_up_with_omitted_ones() -> None:
    g = graph("y = Clip(x)", weights="")
    with edit.Edit(g) as e:
        e.replace_input(g.nodes[0], 2, e.constant("high", np.array(1, np.float32)))
    assert [t.name for t in g.nodes[0].inputs] == ["x", "", "high"]
    check(g)


def test_replace_input_of_one_that_is_read_twice() -> None:
    g = graph("a = Relu(x) y = Add(x, x)")
    with edit.Edit(g) as e:
        e.replace_input(g.nodes[1], 1, g.nodes[0].outputs[0])
        assert len(e.users(g.inputs[0])) == 2
    assert [t.name for t in g.nodes[1].inputs] == ["x", "a"]
    check(g)


def test_drop_inputs() -> None:
    g = graph('y = Clip(x, "", high)', weights="float high = {1}")
    high = g.nodes[0].inputs[2]
    with edit.Edit(g) as e:
        e.drop_inputs(g.nodes[0], 1)
        assert e.users(high) == []
    assert len(g.nodes[0].inputs) == 1
    assert [t.name for t in check(g).graph.initializer] == []


def test_replace_output() -> None:
    g = graph("a = Relu(x) b = Neg(x) y = Add(a, b)")
    with edit.Edit(g) as e:
        new = e.fresh("new", np.float32, [4])
        old = g.nodes[0].outputs[0]
        e.replace_output(g.nodes[0], 0, new)
        assert e.producer(new) is g.nodes[0]
        assert e.producer(old) is None
        e.replace_uses(old, new)
    check(g)


def test_replace_uses_reaches_into_subgraphs_but_not_to_outputs() -> None:
    g = graph(
        BRANCHES + " z = Identity(a)",
        "float[4] x, bool c",
        "float[4] y, float[4] a, float[4] z",
        "float[4] w = {1,2,3,4}",
    )
    a = g.nodes[0].outputs[0]
    with edit.Edit(g) as e:
        e.replace_uses(a, g.inputs[0])
        e.replace_uses(g.inputs[0], g.inputs[0])
        assert e.users(a) == []
        assert len(e.users(g.inputs[0])) == 4
    assert g.outputs[1] is a
    check(g)


def test_rewiring_alone_restores_the_order() -> None:
    g = graph("a = Relu(x) b = Neg(x) y = Add(a, b)")
    relu, neg, _ = g.nodes
    with edit.Edit(g) as e:
        e.replace_input(relu, 0, neg.outputs[0])
    assert ops(g) == ["Neg", "Relu", "Add"]
    check(g)


def test_settle() -> None:
    g = graph("a = Relu(w) y = Add(x, a)", outputs="float[4] y, float[4] a", weights="float[4] w = {1,2,3,4}")
    [relu, add] = g.nodes
    with edit.Edit(g) as e:
        assert e.settle(relu.outputs[0], np.ones(4, np.float32))
        e.remove(relu)
    assert isinstance(add.inputs[1], gs.Constant)
    assert g.outputs[1] is add.inputs[1]
    assert [info.name for info in check(g).graph.output] == ["y", "a"]


# bypass and redirect ---------------------------------------------------------------------------------------------

BYPASSED: dict[str, tuple[Callable[[], onnx.ModelProto], bool]] = {
    "in the middle": (lambda: model("a = Relu(x) b = Identity(a) y = Neg(b)"), True),
    "behind a graph input": (lambda: model("b = Identity(x) y = Neg(b)"), True),
    "before a graph output": (lambda: model("a = Relu(x) y = Identity(a)"), True),
    "before a graph output, its input used elsewhere": (
        lambda: model("a = Relu(x) y = Identity(a) z = Neg(a)", outputs="float[4] y, float[4] z"),
        True,
    ),
    "between two graph outputs": (
        lambda: model("a = Relu(x) y = Identity(a)", outputs="float[4] y, float[4] a"),
        False,
    ),
    "between a graph input and an output": (lambda: model("y = Identity(x)"), False),
    "between a constant and an output": (lambda: model("y = Identity(w)", weights="float[4] w = {1,2,3,4}"), False),
    "behind a constant": (lambda: model("b = Identity(w) y = Add(x, b)", weights="float[4] w = {1,2,3,4}"), True),
    "with a second output that is used": (
        lambda: model("b, m = Dropout(x) n = Cast<to = 1>(m) y = Add(b, n)"),
        False,
    ),
    "with a second output that is not": (lambda: model("b, m = Dropout(x) y = Neg(b)"), True),
}


@pytest.mark.parametrize("name", BYPASSED)
def test_bypass(name: str) -> None:
    make, possible = BYPASSED[name]
    g = from_proto(make())
    [node] = [node for node in g.nodes if node.op in ("Identity", "Dropout")]
    with edit.Edit(g) as e:
        assert e.bypass(node) is possible
    assert (node.op in ops(g)) is not possible
    assert_equivalent(make(), check(g), tolerance=0)


def test_bypass_keeps_the_type_of_the_output() -> None:
    g = graph("a = Relu(x) y = Identity(a)", outputs="float[N] y")
    with edit.Edit(g) as e:
        e.bypass(g.nodes[1])
    assert g.outputs[0].name == "y"
    assert to_proto(g).graph.output[0] == model("y = Relu(x)", outputs="float[N] y").graph.output[0]


def test_bypass_in_a_subgraph() -> None:
    """A branch that returns an outer tensor through Identity keeps it: outer tensors are not made there."""
    text = BRANCHES.replace("t_y = Add(a, w)", "t_y = Identity(a)").replace(
        "tt_y = Neg(a)", "k = Neg(a) tt_y = Identity(k)"
    )
    before = model(text, "float[4] x, bool c", weights="float[4] w = {1,2,3,4}")
    g = from_proto(before)
    found = {}
    for scope in edit.graphs(g):
        with edit.Edit(scope) as e:
            for node in e.nodes:
                if node.op == "Identity":
                    found[scope.name] = e.bypass(node)
    assert found == {"t": False, "tt": True}
    for c in (True, False):
        feeds = {"x": np.array([-1, 2, -3, 4], np.float32), "c": np.array(c)}
        assert_equivalent(before, check(g), feeds, tolerance=0)


def test_bypass_before_a_nested_graph() -> None:
    text = BRANCHES.replace("a = Relu(x)", "r = Relu(x) a = Identity(r)")
    before = model(text, "float[4] x, bool c", weights="float[4] w = {1,2,3,4}")
    g = from_proto(before)
    with edit.Edit(g) as e:
        assert e.bypass(g.nodes[1])
    assert ops(g) == ["Relu", "If"]
    assert_equivalent(before, check(g), tolerance=0)


def test_redirect_takes_over_name_and_uses() -> None:
    g = graph("a = Relu(x) b = Neg(a) y = Relu(b)", outputs="float[4] y, float[4] b")
    b = g.outputs[1]
    with edit.Edit(g) as e:
        new = e.add("Abs", [g.inputs[0]], [e.fresh("new")])
        e.redirect(b, new)
        assert e.producer(b) is new
        e.remove(g.nodes[0])
    assert ops(g) == ["Abs", "Relu"]
    assert g.nodes[0].outputs[0] is b
    assert g.outputs[1] is b
    check(g)


# Order -----------------------------------------------------------------------------------------------------------


def test_sort_keeps_a_legal_order() -> None:
    g = graph("a = Relu(x) b = Neg(x) c = Abs(x) d = Add(b, c) e = Add(d, a) y = Relu(e)")
    before = list(g.nodes)
    edit.sort(g)
    assert all(now is then for now, then in zip(g.nodes, before, strict=True))


def test_sort_puts_makers_of_captured_tensors_before_the_subgraph() -> None:
    g = branches()
    g.nodes.reverse()
    edit.sort(g)
    assert ops(g) == ["Relu", "If"]
    check(g)


def test_a_cycle_is_named() -> None:
    g = graph("a = Relu(x) b = Neg(a) y = Abs(b)")
    g.nodes[0].name = "first"
    with pytest.raises(PassError, match=r"`first`.*cycle"), edit.Edit(g) as e:
        e.replace_input(g.nodes[0], 0, g.nodes[1].outputs[0])


def test_a_cycle_through_a_subgraph_is_found() -> None:
    g = branches()
    relu, branch = g.nodes
    with pytest.raises(PassError, match="cycle"), edit.Edit(g) as e:
        e.replace_input(relu, 0, branch.outputs[0])


@given(st.integers(2, 30), st.randoms(use_true_random=False))
def test_sort_orders_anything(count: int, rng: Any) -> None:
    """Each node reads one or two tensors made before it, in a list that is then shuffled."""
    lines = ["t0 = Relu(x)"]
    for index in range(1, count):
        first, second = rng.randrange(index), rng.randrange(index)
        lines.append(f"t{index} = Add(t{first}, t{second})")
    g = graph(" ".join(lines), outputs=f"float[4] t{count - 1}")
    rng.shuffle(g.nodes)
    edit.sort(g)
    seen = {id(g.inputs[0])}
    for node in g.nodes:
        assert all(id(tensor) in seen for tensor in node.inputs)
        seen.update(id(tensor) for tensor in node.outputs)
    assert len(g.nodes) == count

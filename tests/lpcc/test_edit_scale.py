"""Edits cost the same whatever the size of the model."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from lpcc import edit
from lpcc.graph import from_proto, to_proto


def chain(length: int) -> gs.Graph:
    """x -> Relu -> Identity -> Add(w) -> Relu ... with one shared weight."""
    kinds = ("Relu", "Identity", "Add")
    nodes = [
        helper.make_node(kinds[i % 3], [f"t{i}", "w"] if i % 3 == 2 else [f"t{i}"], [f"t{i + 1}"])
        for i in range(length)
    ]
    ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("t0", f"t{length}")]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    main = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    return from_proto(helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def work(length: int) -> int:
    """Calls and lines that edits at every node take: bypass, new nodes, new names, rewiring, sorting."""
    g = chain(length)
    count = 0

    def trace(*_: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with edit.Edit(g) as e:
            for node in e.nodes:
                if node.op == "Identity":
                    e.bypass(node)
                elif node.op == "Add":
                    new = e.add("Mul", [node.inputs[0], e.constant("k", np.ones(4, np.float32))], [e.fresh("m")])
                    e.redirect(node.outputs[0], new)
        to_proto(g)
    finally:
        sys.settrace(before)
    return count


def test_a_long_chain_needs_no_deep_stack() -> None:
    g = chain(5_000)
    g.nodes.reverse()
    edit.sort(g)
    onnx.checker.check_model(to_proto(g), full_check=True)


def test_edits_are_linear_in_the_size_of_the_model() -> None:
    assert work(2_400) < 8.8 * work(300)

"""Factors without numbers are those that the methods make, and cost what the cost model counts."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lpcc import edit
from lpcc.analysis.macs import macs
from lpcc.analysis.shapes import bind
from lpcc.passes.factorize.emit import write
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.factorize.ranks.skeleton import Work, most, skeleton, unfoldings

SIZES = [8, 6, 5, 1]


@st.composite
def layers(draw):
    """A layer of random sizes in a graph of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    groups, inputs, outputs = (
        draw(st.sampled_from([1, 1, 2])),
        draw(st.sampled_from(SIZES)),
        draw(st.sampled_from(SIZES)),
    )
    op = draw(st.sampled_from(["Conv", "Conv", "ConvTranspose", "Gemm", "MatMul"]))
    if op in ("Gemm", "MatMul"):
        read, weight, attrs = [3, inputs * 2], rng.standard_normal((inputs * 2, outputs * 2)), {}
        made = [3, outputs * 2]
    else:
        axes = draw(st.sampled_from([2, 2, 1, 3]))
        kernel = [draw(st.sampled_from([3, 3, 2, 1])) for _ in range(axes)]
        strides = [draw(st.integers(1, 2)) for _ in range(axes)]
        pads = [draw(st.integers(0, 1)) for _ in range(2 * axes)]
        sizes = [draw(st.integers(4, 7)) for _ in range(axes)]
        attrs = {"group": groups, "strides": strides, "pads": pads, "kernel_shape": kernel}
        first, second = (inputs * groups, outputs) if op == "ConvTranspose" else (outputs * groups, inputs)
        weight = rng.standard_normal((first, second, *kernel))
        made_sizes = [
            (size - 1) * stride - before - after + window
            if op == "ConvTranspose"
            else (size + before + after - window) // stride + 1
            for size, stride, before, after, window in zip(
                sizes, strides, pads[:axes], pads[axes:], kernel, strict=True
            )
        ]
        read, made = [2, inputs * groups, *sizes], [2, outputs * groups, *made_sizes]
    source = gs.Variable("x", np.dtype(np.float32), read)
    result = gs.Variable("y", np.dtype(np.float32), made)
    node = gs.Node(op=op, name="layer", attrs=attrs)
    edit.link(node, [source, gs.Constant("w", weight.astype(np.float32))], [result])
    return gs.Graph(nodes=[node], inputs=[source], outputs=[result]), node


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(layers(), st.data())
def test_is_what_the_method_makes(method, layer, data):
    graph, node = layer
    form = Form.of(node)
    try:
        found = METHODS[method](form)
        rank = tuple(data.draw(st.integers(1, full)) for full in found.full)
        real = found.factors(rank)
    except Declined:
        assume(False)
    own = skeleton(form, method, rank)
    assert [(s.tensor.shape, s.axes) for s in own.stages] == [(s.tensor.shape, s.axes) for s in real.stages]
    assert own.tensor.shape == form.tensor.shape
    work = Work.of(node, form, bind(graph))
    assert work.layer(form) == sum(macs(graph).values())
    wanted = work.stages(own.stages)
    with edit.Edit(graph) as e:
        write(e, node, form, own)
    assert sum(macs(graph).values()) == wanted


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(layers())
def test_full_ranks_are_within_the_bound(method, layer):
    form = Form.of(layer[1])
    try:
        full = METHODS[method](form).full
    except Declined:
        assume(False)
    assert len(most(form, method)) == len(full)
    assert all(own <= bound for own, bound in zip(full, most(form, method), strict=True))
    if not method.startswith("cpd"):
        assert all(prod(matrix.shape) == form.tensor.size for matrix in unfoldings(form, method))


@pytest.mark.parametrize("method", ["svd", "bmd"])
def test_the_matrix_is_the_one_that_is_cut(method):
    rng = np.random.default_rng(0)
    form = Form("Conv", rng.standard_normal((1, 7, 5, 3, 3)), (1, 1), (1, 1), (1, 1, 1, 1), (0, 0))
    (matrix,) = unfoldings(form, method)
    lost = np.linalg.svd(matrix[0], compute_uv=False)[4:]
    error = METHODS[method](form).error((4,))
    assert error == pytest.approx(np.square(lost).sum() / np.square(form.tensor).sum())


def test_takes_no_memory():
    form = Form("Gemm", np.broadcast_to(np.asarray(1.0), (1, 30_000, 50_000)))
    assert all(stage.tensor.strides == (0, 0, 0) for stage in skeleton(form, "svd", (9_000,)).stages)

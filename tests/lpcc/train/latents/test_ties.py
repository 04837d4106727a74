"""Which scales are one, which stay, and how far they may go."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents.ties import ends_of, scale_of, ties  # noqa: E402

HEAD = '<ir_version: 10, opset_import: ["": 17]> g (float[N,4,8,8] x) => (float[N,c,h,w] y)'


def graph_of(text):
    graph = from_proto(read_model(f"{HEAD} {text}"))
    annotate(graph)
    return graph


def tied(text):
    """The names of the constants of each scale, and the reasons of those that stay."""
    found = ties(graph_of(text))
    return [sorted(tie.names) for tie in found], {name: tie.reason for tie in found for name in tie.names if tie.reason}


POOL = """<float s = {0.5}, float t = {%s}, uint8 z = {%s}, uint8 u = {3}> {
    q = QuantizeLinear(x, s, u)
    d = DequantizeLinear(q, s, u)
    %s
    r = QuantizeLinear(m, t, z)
    y = DequantizeLinear(r, t, z)
}"""
MAXPOOL = "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)"


def test_equal_scales_around_what_moves_numbers_are_one():
    assert tied(POOL % (0.5, 3, MAXPOOL)) == ([["s", "t"]], {})
    moved = "n = Transpose<perm=[0,2,3,1]>(d) m = MaxPool<kernel_shape=[2,2]>(n)"
    assert tied(POOL % (0.5, 3, moved)) == ([["s", "t"]], {})


@pytest.mark.parametrize(
    "case", [(0.25, 3, MAXPOOL), (0.5, 4, MAXPOOL), (0.5, 3, "m = AveragePool<kernel_shape=[2,2]>(d)")]
)
def test_others_are_not(case):
    assert tied(POOL % case) == ([["s"], ["t"]], {})


def test_a_quantiser_and_its_dequantisers_are_one_also_on_integers():
    text = """<float s = {0.5}, float t = {0.5}, float v = {0.5}, uint8 z = {3}, int64[8] pads = {0,0,1,1,0,0,1,1}> {
        q = QuantizeLinear(x, s, z)
        p = Pad(q, pads, z)
        d = DequantizeLinear(p, t, z)
        e = DequantizeLinear(q, v, z)
        f = AveragePool<kernel_shape=[3,3]>(d)
        y = Add(e, f)
    }"""
    assert tied(text) == ([["s", "t", "v"]], {})


def test_concatenated_with_one_scale():
    text = """<float s = {0.5}, float t = {0.5}, float v = {0.5}, uint8 z = {0}> {
        a = Relu(x)
        b = Sigmoid(x)
        q = QuantizeLinear(a, s, z)
        r = QuantizeLinear(b, t, z)
        d = DequantizeLinear(q, s, z)
        e = DequantizeLinear(r, t, z)
        c = Concat<axis=1>(d, e)
        w = QuantizeLinear(c, v, z)
        y = DequantizeLinear(w, v, z)
    }"""
    groups, reasons = tied(text)
    assert groups == [["s", "t", "v"]]
    assert set(reasons) == {"s", "t", "v"}, "one of them stands behind a Sigmoid, in a power of two"


def test_a_hard_swish_on_integers_keeps_its_scale():
    text = """<float s = {0.06}, float t = {0.01}, uint8 z = {50}, uint8 zero = {0}, uint8 most = {100}> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        c = Clip(q, , most)
        h = DequantizeLinear(c, t, zero)
        y = Mul(d, h)
    }"""
    assert tied(text)[1] == dict.fromkeys(("s", "t"), "its integers are read with another scale elsewhere")


@pytest.mark.parametrize(
    ("op", "scale", "stays"),
    [("Softmax", 1 / 256, True), ("Sigmoid", 1 / 256, True), ("Tanh", 1 / 128, True), ("Sigmoid", 1 / 255, False)],
)
def test_ranges_that_runtimes_fix(op, scale, stays):
    text = f"""<float s = {{{scale}}}, int8 z = {{-128}}> {{
        a = {op}(x)
        q = QuantizeLinear(a, s, z)
        y = DequantizeLinear(q, s, z)
    }}"""
    assert bool(tied(text)[1]) == stays


def test_integers_that_are_returned_or_scales_that_are_numbers_stay():
    text = """<float s = {0.5}, uint8 z = {3}> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        y = Mul(d, s)
    }"""
    assert tied(text)[1] == {"s": "it is used as a number, too"}
    graph = from_proto(
        read_model(
            """<ir_version: 10, opset_import: ["": 17]> g (float[N,4] x) => (uint8[N,4] q)
            <float s = {0.5}, uint8 z = {3}> { q = QuantizeLinear(x, s, z) }"""
        )
    )
    annotate(graph)
    assert [tie.reason for tie in ties(graph)] == ["the graph returns integers of it"]


def test_the_gradient_scale_counts_the_numbers_of_a_sample_and_the_greatest_integer():
    graph = graph_of("<float s = {0.5}, uint8 z = {55}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }")
    (tie,) = ties(graph)
    scale = scale_of(tie, bind(graph))
    scale().backward()
    assert float(scale.share.grad) == pytest.approx(1 / 0.5 / np.sqrt(4 * 8 * 8 * 200))


def now(scale):
    return float(scale().detach())


def clipped(scale):
    graph = graph_of(
        f"""<float s = {{{scale}}}, uint8 z = {{0}}, float low = {{0}}, float high = {{6}}> {{
            a = Clip(x, low, high)
            q = QuantizeLinear(a, s, z)
            y = DequantizeLinear(q, s, z)
        }}"""
    )
    (tie,) = ties(graph)
    return scale_of(tie, bind(graph))


def test_a_range_keeps_to_the_limits_of_the_clip_before_it():
    scale = clipped(np.nextafter(np.float32(6 / 255), np.float32(0)))
    with torch.no_grad():
        scale.share.fill_(2.0)
    assert now(scale) * 255 <= 6
    assert now(scale) == pytest.approx(6 / 255)
    free = clipped(0.03)  # which went beyond the limits before
    with torch.no_grad():
        free.share.fill_(2.0)
    assert now(free) == pytest.approx(0.06)


def test_what_holds_back_a_max_pool_follows_its_scale():
    graph = graph_of(
        """<float s = {0.5}, uint8 z = {10}, float least = {-5}> {
            p = MaxPool<kernel_shape=[2,2]>(x)
            m = Max(p, least)
            q = QuantizeLinear(m, s, z)
            y = DequantizeLinear(q, s, z)
        }"""
    )
    (tie,) = ties(graph)
    scale = scale_of(tie, bind(graph))
    (end,) = ends_of(tie, scale).values()
    with torch.no_grad():
        scale.share.fill_(1.5)
    assert end.stored() == {"least": np.float32(-7.5)}

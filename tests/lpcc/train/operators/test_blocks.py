"""Blocks of networks, as exporters of their time spell them out: as in onnxruntime, and every weight has a gradient."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.graph import from_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402

TRANSFORMER_OF_OPSET_11 = """
<ir_version: 6, opset_import: ["": 11]>
g (float[N,6,8] x) => (float[N,6,8] y)
<float[8] gain, float[8] shift, float[8,24] qkv, float[24] qkv_bias, float[8,8] out, float[8,16] up, float[16,8] down,
 int64[5] heads = {0, 0, 3, 2, 4}, int64[3] joined = {0, 0, 8}, int64 q = {0}, int64 k = {1}, int64 v = {2},
 float root = {2.0}, float two = {2.0}, float epsilon = {0.00001}, float sqrt2 = {1.4142135}, float one = {1.0},
 float half = {0.5}>
{
    mean = ReduceMean<axes = [-1]>(x)
    centred = Sub(x, mean)
    squares = Pow(centred, two)
    variance = ReduceMean<axes = [-1]>(squares)
    safe = Add(variance, epsilon)
    deviation = Sqrt(safe)
    normal = Div(centred, deviation)
    scaled = Mul(normal, gain)
    n = Add(scaled, shift)
    m = MatMul(n, qkv)
    b = Add(m, qkv_bias)
    r = Reshape(b, heads)
    t = Transpose<perm = [2, 0, 3, 1, 4]>(r)
    tq = Gather<axis = 0>(t, q)
    tk = Gather<axis = 0>(t, k)
    tv = Gather<axis = 0>(t, v)
    turned = Transpose<perm = [0, 1, 3, 2]>(tk)
    scores = MatMul(tq, turned)
    logits = Div(scores, root)
    weights = Softmax<axis = 3>(logits)
    heard = MatMul(weights, tv)
    back = Transpose<perm = [0, 2, 1, 3]>(heard)
    whole = Reshape(back, joined)
    o = MatMul(whole, out)
    skip = Add(x, o)
    u = MatMul(skip, up)
    d = Div(u, sqrt2)
    e = Erf(d)
    e1 = Add(e, one)
    ge = Mul(u, e1)
    gelu = Mul(ge, half)
    w = MatMul(gelu, down)
    y = Add(skip, w)
}
"""

READER = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,8,20] x) => (float[T,N,6] y)
<float[4,3,3,3] filter, float[2,32,16] w, float[2,32,8] r, float[2,64] b, float[16,6] head, float[6] bias,
 int64[3] columns = {0, -1, 16}, int64[1] axis = {3}, int64[3] flat = {0, 0, -1}>
{
    c = Conv<pads = [1, 1, 1, 1]>(x, filter)
    a = HardSwish(c)
    p = MaxPool<kernel_shape = [2, 1], strides = [2, 1]>(a)
    t = Transpose<perm = [3, 0, 1, 2]>(p)
    f = Reshape(t, flat)
    l, h, cell = LSTM<hidden_size = 8, direction = "bidirectional">(f, w, r, b)
    lt = Transpose<perm = [0, 2, 1, 3]>(l)
    lf = Reshape(lt, flat)
    m = MatMul(lf, head)
    s = Add(m, bias)
    y = LogSoftmax<axis = 2>(s)
}
"""

SEGMENTER = """
<ir_version: 8, opset_import: ["": 13]>
g (float[N,3,H,W] x) => (float[N,2,H,W] y)
<float[8,3,3,3] down, float[8,1,3,3] depthwise, float[8,8,1,1] squeeze, float[8] squeeze_bias, float[8,4,2,2] up,
 float[4] up_bias, float[2,7,1,1] head, float[8,1,1] gain, float[8,1,1] shift,
 int64[3] groups = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0}, int64[1] from = {2}, int64[1] to = {4},
 float[0] nothing, float three = {3.0}, float zero = {0.0}, float six = {6.0}, int64[1] start = {0}>
{
    c = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, down)
    shape = Shape(c)
    grouped = Reshape(c, groups)
    normal = InstanceNormalization(grouped, ones, zeros)
    ungrouped = Reshape(normal, shape)
    scaled = Mul(ungrouped, gain)
    n = Add(scaled, shift)
    d = Conv<group = 8, pads = [2, 2, 2, 2], dilations = [2, 2]>(n, depthwise)
    pooled = GlobalAveragePool(d)
    s = Conv(pooled, squeeze, squeeze_bias)
    s3 = Add(s, three)
    s6 = Clip(s3, zero, six)
    gate = Div(s6, six)
    excited = Mul(d, gate)
    u = ConvTranspose<strides = [2, 2]>(excited, up, up_bias)
    full = Shape(x)
    size = Slice(full, from, to)
    batch = Shape(u)
    b1 = Slice(batch, start, from)
    outer = Concat<axis = 0>(b1, size)
    resized = Resize<mode = "linear">(u, nothing, nothing, outer)
    j = Concat<axis = 1>(resized, x)
    y = Conv(j, head)
}
"""

SHUFFLED = """
<ir_version: 7, opset_import: ["": 12]>
g (float[N,8,6,6] x) => (float[N,18,5] y, int64[N,18] best)
<float[4,4,1,1] filter, float[4] scale, float[4] shift, float[4] mean, float[4] var, float[5,8,1,1] head,
 float[5] bias, int64[5] split = {0, 2, 4, 6, 6}, int64[4] joined = {0, 8, 6, 6},
 int64[3] rows = {0, 5, -1}, int64[1] first = {0}, int64[1] middle = {18}, int64[1] one = {1}>
{
    r = Reshape(x, split)
    t = Transpose<perm = [0, 2, 1, 3, 4]>(r)
    z = Reshape(t, joined)
    a, b = Split<axis = 1>(z)
    c = Conv(a, filter)
    n = BatchNormalization(c, scale, shift, mean, var)
    l = LeakyRelu<alpha = 0.2>(n)
    k = Concat<axis = 1>(l, b)
    h = Conv(k, head, bias)
    s = Sigmoid(h)
    f = Reshape(s, rows)
    p = Transpose<perm = [0, 2, 1]>(f)
    y = Slice(p, first, middle, one)
    best = ArgMax<axis = 2, keepdims = 0>(y)
}
"""

BLOCKS = {
    "transformer": (TRANSFORMER_OF_OPSET_11, (6, 8)),
    "reader": (READER, (3, 8, 20)),
    "segmenter": (SEGMENTER, (3, 10, 14)),
    "shuffled": (SHUFFLED, (8, 6, 6)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str) -> None:
    text, shape = BLOCKS[name]
    model = read_model(text)
    network = Network(from_proto(model))
    session = Session(model, optimise=False)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)
        expected = session.run({"x": x})
        found = network({"x": torch.from_numpy(x)})
        for output, value in expected.items():
            np.testing.assert_allclose(found[output].detach().numpy(), value, rtol=1e-4, atol=1e-5)
    network.train()
    sum(y.square().sum() for y in network({"x": torch.from_numpy(x)}).values() if y.is_floating_point()).backward()
    trained = {**network.weights, **network.others}
    assert len(trained) >= 5
    for parameter in trained.values():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 0

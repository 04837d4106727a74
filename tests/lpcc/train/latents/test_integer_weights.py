"""Integer weights and biases in training: they start as the graph has them, and what is stored is what was computed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.analysis.packed import Part

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents.integer_weights import Bias, Integers, IntegerWeight, least_steps, limits_of  # noqa: E402
from lpcc.train.latents.scale import Scale  # noqa: E402

RNG = np.random.default_rng(0)


def part(name, values, dtype, places):
    return Part(gs.Constant(name, values.astype(dtype)), np.asarray(places))


def mixed():
    """Six channels: two in int8, four in int4."""
    wide, narrow = RNG.integers(-127, 128, (2, 5)), RNG.integers(-8, 8, (4, 5))
    narrow[0, 0] = -8
    values = np.zeros((6, 5), dtype=np.int64)
    values[[1, 4]], values[[0, 2, 3, 5]] = wide, narrow
    parts = (part("w8", wide, np.int8, [1, 4]), part("w4", narrow, ml_dtypes.int4, [0, 2, 3, 5]))
    low, high = limits_of(parts, 0, values, 127)
    return Integers(parts, 0, values, low, high, np.zeros((), np.float32), 0, 0)


def test_limits_are_those_of_each_constant():
    integers = mixed()
    assert integers.low.reshape(-1).tolist() == [-8, -127, -8, -8, -127, -8]
    assert integers.high.reshape(-1).tolist() == [7, 127, 7, 7, 127, 7]


@pytest.mark.parametrize(
    ("values", "dtype", "largest", "expected"),
    [
        ([-7, 7], ml_dtypes.int4, 127, (-7, 7)),
        ([-8, 7], ml_dtypes.int4, 127, (-8, 7)),
        ([-64, 3], np.int8, 64, (-64, 64)),
        ([-128, 3], np.int8, 127, (-128, 127)),
        ([3, 200], np.uint8, 127, (0, 255)),
        ([0, 3], ml_dtypes.uint2, 127, (0, 3)),
    ],
)
def test_limits_show_in_the_integers(values, dtype, largest, expected):
    values = np.array([values])
    low, high = limits_of((part("w", values, dtype, [0]),), 0, values, largest)
    assert (int(low[0, 0]), int(high[0, 0])) == expected


def test_mixed_widths_start_and_are_stored_as_the_graph_has_them():
    integers = mixed()
    steps = (RNG.random(6) * 0.1 + 0.01).astype(np.float32)
    scale = Scale(["s"], steps, 5, 127)
    weight = IntegerWeight("w", integers, scale)
    assert np.array_equal(weight().detach().numpy(), integers.values.astype(np.float32) * steps[:, None])
    stored = weight.stored()
    assert set(stored) == {"w8", "w4", "s"}
    for own in integers.parts:
        assert np.array_equal(stored[own.stored.name], own.stored.values)
        assert stored[own.stored.name].dtype == own.stored.dtype
    with torch.no_grad():
        weight.weight.mul_(-100)
    assert stored["w4"].min() >= -8
    assert weight.stored()["w4"].astype(int).min() == -8
    assert weight.stored()["w4"].astype(int).max() == 7


def test_float_weights_before_rounding_are_where_it_starts():
    integers = mixed()
    steps = (RNG.random(6) * 0.1 + 0.01).astype(np.float32)
    exact = integers.values * steps[:, None]
    before = (exact + RNG.uniform(-0.45, 0.45, exact.shape) * steps[:, None]).astype(np.float32)
    moved = before.copy()
    moved[0, 1] += 3 * steps[0]  # rounded otherwise by the graph, as AdaRound may
    weight = IntegerWeight("w", integers, Scale(["s"], steps, 5, 127), moved)
    assert np.array_equal(weight.stored()["w8"], integers.parts[0].stored.values)
    assert np.array_equal(weight.stored()["w4"], integers.parts[1].stored.values)
    start = weight.weight.detach().numpy()
    inside = integers.values[0, 1] < 7
    np.testing.assert_allclose(np.delete(start.reshape(-1), 1), np.delete(before.reshape(-1), 1), rtol=1e-5)
    assert not inside or start[0, 1] != moved[0, 1]


def test_zero_points_and_blocks():
    values = RNG.integers(0, 16, (5, 3))
    zero = RNG.integers(4, 8, (3, 3)).astype(np.float32)  # of two rows each, the last of one
    steps = (RNG.random((3, 3)) + 0.1).astype(np.float32)
    zeros = np.repeat(zero, 2, axis=0)[:5]
    own = part("w", values, ml_dtypes.uint4, range(5))
    low, high = limits_of((own,), 0, values, 127)
    integers = Integers((own,), 0, values, low, high, zeros, 0, 2)
    weight = IntegerWeight("w", integers, Scale(["s"], steps, 2, 15))
    expected = (values - zeros).astype(np.float32) * np.repeat(steps, 2, axis=0)[:5]
    assert np.array_equal(weight().detach().numpy(), expected)
    assert np.array_equal(weight.stored()["w"].astype(int), values)
    weight().sum().backward()
    assert weight.scale.share.grad.shape == (3, 3)


def test_a_bias_follows_the_scales_of_its_layer():
    integers = np.array([5, -(2**30), 12345678, 0], dtype=np.int32)
    x, w = Scale(["x"], np.asarray(np.float32(0.02)), 1, 1), Scale(["w"], np.full(4, 0.003, np.float32), 1, 1)
    steps = np.float32(0.02) * np.full(4, 0.003, np.float32)
    bias = Bias("b", ("bq", "bs"), integers, steps, [x, w])
    value = bias().detach().numpy()
    np.testing.assert_allclose(value, integers * steps.astype(np.float64), rtol=1e-6)
    assert np.abs(bias.stored()["bq"].astype(np.int64) - integers).max() <= 64  # a float32 holds 24 bits
    with torch.no_grad():
        x.share.mul_(0.5)
        w.share[0] = 2.0
    stored = bias.stored()
    assert np.array_equal(stored["bs"], x.stored()["x"] * w.stored()["w"])
    assert stored["bq"].dtype == np.int32
    np.testing.assert_allclose(stored["bq"][[0, 2]] * stored["bs"][[0, 2]], value[[0, 2]], rtol=0, atol=1e-4)
    assert stored["bq"][1] == -(2**31) + 1, "what no longer fits is cut off, not wrapped"
    assert np.array_equal(stored["bq"].astype(np.float32) * stored["bs"], bias().detach().numpy())
    (bias() * torch.arange(4.0)).sum().backward()
    assert bias.bias.grad.tolist() == [0, 1, 2, 3]
    assert x.share.grad is None, "scales learn from what they round, not from a bias"


def test_a_bias_without_factors_keeps_its_scale():
    bias = Bias("b", ("bq", "bs"), np.array([7], np.int32), np.asarray(np.float32(0.5)), [])
    with torch.no_grad():
        bias.bias.fill_(9.1)
    assert bias.stored() == {"bq": np.array([18], np.int32), "bs": np.float32(0.5)}


def test_the_least_steps_leave_room_for_the_bias():
    bias = np.array([1.0, 1000.0])
    steps = least_steps(bias, np.asarray(np.float32(1e-3)), 0)
    assert (bias / (1e-3 * steps) <= 2**30).all()
    assert least_steps(None, None, 0) == 0.0

"""The stand-in for x86 without VNNI against a case by hand, a slow loop, and onnxruntime's own kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.simulate import kernels_here, saturation, stand_in
from lpcc.simulate.saturating import _small_parts
from lpcc.simulate.signs import with_activations
from lpcc.target import Target

Array = np.ndarray[Any, Any]
Layer = Callable[..., onnx.ModelProto]
Runner = Callable[..., dict[str, Array]]


def ran(model: onnx.ModelProto, image: Array) -> Array:
    """What the stand-in gives for a model of one layer."""
    session = Session(stand_in(model, "x86-novnni", "x86-vnni"), signed=True)
    return session.run({"image": image.astype(np.float32)})["z"]


def cut(first: int, second: int) -> int:
    return max(-32768, min(32767, first + second))


def slow(image: Array, weights: Array, zero: int, group: int, stride: int, pad: int, gap: int) -> Array:
    """The sums of a convolution of integers (C, H, W), pair after pair, with each pair cut to 16 bits."""
    outputs, depth, *kernel = weights.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), constant_values=zero)
    rows, columns = (
        (size + 2 * pad - (taps - 1) * gap - 1) // stride + 1
        for size, taps in zip(image.shape[1:], kernel, strict=True)
    )
    found = np.zeros((outputs, rows, columns), dtype=np.int64)
    for o in range(outputs):
        first = o // (outputs // group) * depth
        for y in range(rows):
            for x in range(columns):
                products = [
                    int(padded[first + c, y * stride + i * gap, x * stride + j * gap]) * int(weights[o, c, i, j])
                    for i in range(kernel[0])
                    for j in range(kernel[1])
                    for c in range(depth)
                ]
                products += [0] * (len(products) % 2)
                total = sum(cut(a, b) for a, b in zip(products[::2], products[1::2], strict=True))
                found[o, y, x] = total - zero * int(weights[o].astype(np.int64).sum())
    return found


def test_by_hand(layer: Layer) -> None:
    """255 * 127 + 255 * 127 = 64,770 becomes 32,767; the other pair, 255 * 127 - 255 * 127, stays 0."""
    weights = np.array([127, 127, 127, -127], dtype=np.int8).reshape(1, 4, 1, 1)
    weights = np.concatenate([weights, -weights])
    image = np.full((1, 4, 1, 1), 255)
    model = layer(weights, 0, 1 / 1024)
    assert ran(model, image).reshape(-1).tolist() == [32, -32]  # 32,767 and -32,768 thousand-and-twenty-fourths
    exact = Session(model).run({"image": image.astype(np.float32)})["z"]
    assert exact.reshape(-1).tolist() == [63, -63]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolutions_equal_a_slow_loop(layer: Layer, data: st.DataObject) -> None:
    draw = data.draw
    group = draw(st.sampled_from([1, 1, 2]))
    depth, outputs = draw(st.integers(1, 5)), group * draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride, pad, gap = draw(st.integers(1, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
    size = draw(st.tuples(st.integers(5, 7), st.integers(5, 7)))
    zero, relu = draw(st.integers(0, 255)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.choice(np.array([-127, -90, -40, 0, 40, 90, 127], dtype=np.int8), (outputs, depth, *kernel))
    image = rng.integers(0, 256, (group * depth, *size))
    bias = rng.integers(-9999, 9999, outputs) if draw(st.booleans()) else None
    sums = slow(image, weights, zero, group, stride, pad, gap)
    if depth == 1 and outputs == group:  # depthwise: nothing is cut
        return
    if bias is not None:
        sums = sums + bias.reshape(-1, 1, 1)
    scale = 100 / max(1, int(np.abs(sums).max()))
    scale = float(1 / np.float32(1 / scale))
    attrs = {"group": group, "strides": [stride] * 2, "pads": [pad] * 4, "dilations": [gap] * 2}
    model = layer(weights, zero, scale, bias, relu=relu, **attrs)
    expected = np.rint((sums.astype(np.float32) * np.float32(1 / np.float32(1 / scale))).astype(np.float32))
    expected = np.clip(expected, 0 if relu else -128, 255 if relu else 127)
    found = ran(model, image[None] - zero)[0]
    assert np.abs(found - expected).max() <= 1  # where a product with the scale lies in the middle
    assert np.mean(found != expected) < 0.02


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_products_of_matrices_equal_a_slow_loop(layer: Layer, data: st.DataObject) -> None:
    draw = data.draw
    rows, depth, columns = (draw(st.integers(1, 9)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.choice(np.array([-127, -100, 30, 100, 127], dtype=np.int8), (depth, columns))
    image = rng.integers(0, 256, (rows, depth))
    even = np.zeros((depth + depth % 2, columns), dtype=np.int64)
    even[:depth] = weights
    wide = np.pad(image, ((0, 0), (0, depth % 2)))
    sums = np.array(
        [
            [sum(cut(int(a[k] * w[k]), int(a[k + 1] * w[k + 1])) for k in range(0, len(w), 2)) for w in even.T]
            for a in wide
        ]
    )
    top = max(1, int(np.abs(sums).max()))
    scale = 2.0 ** -math.ceil(math.log2(top / 100))
    expected = np.clip(np.rint(sums * scale), -128, 127)
    turned = draw(st.booleans())
    model = layer(weights.T.copy(), 0, scale, op="Gemm", transB=1) if turned else layer(weights, 0, scale, op="MatMul")
    assert ran(model, image).tolist() == expected.tolist()


def test_what_does_not_saturate_is_left_alone(layer: Layer) -> None:
    weights = np.full((8, 4, 3, 3), 64, dtype=np.int8)
    model = layer(weights, 3, 1e-3)
    assert [n.op_type for n in stand_in(model, "x86-novnni", "x86-vnni").graph.node] == [
        n.op_type for n in model.graph.node
    ]


def test_sums_stay_within_what_floats_hold_exactly() -> None:
    weights = np.random.default_rng(0).integers(-127, 128, (4, 700, 3, 3))
    parts = _small_parts(weights)
    assert len(parts) > 1
    assert (sum(parts) == weights).all()
    assert all(255 * np.abs(part).reshape(4, -1).sum(axis=1).max() < 2**24 for part in parts)


def test_the_share_and_the_error_that_are_measured(layer: Layer) -> None:
    """Of 2 channels x 2 pairs at 3 pixels one sum is cut, from 51,000 to 32,767."""
    weights = np.array([[100, 100, 1, 1], [1, 1, 1, 1]], dtype=np.int8).reshape(2, 4, 1, 1)
    image = np.zeros((1, 4, 1, 3), dtype=np.float32)
    image[0, :2, 0, 1] = 255
    (found,) = saturation(layer(weights, 0, 1e-3), Dataset.from_arrays({"image": image}))
    assert (found.layer, found.tensor) == ("layer", "t")
    assert found.share == pytest.approx(1 / 12)
    signal, lost = 51_000**2 + 510**2, (51_000 - 32_767) ** 2
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / lost), abs=1e-3)


def test_signed_activations_run_as_unsigned_ones(for_arm: onnx.ModelProto, on_avx2: Runner, samples: Array) -> None:
    feeds = {"image": samples}
    found = Session(stand_in(for_arm, "x86-novnni", "x86-vnni"), signed=True).run(feeds)["logits"]
    graph = from_proto(for_arm)
    assert with_activations(graph, "u8")
    there = on_avx2(to_proto(graph), feeds)["logits"]
    np.testing.assert_allclose(found, there, rtol=1e-5, atol=1e-5 * np.abs(there).max())


def test_equal_to_the_kernels_of_a_processor_without_vnni(
    for_x86: onnx.ModelProto, on_avx2: Runner, samples: Array
) -> None:
    feeds = {"image": samples}
    there = on_avx2(for_x86, feeds)["logits"]
    found = Session(stand_in(for_x86, "x86-novnni", "x86-vnni"), signed=True).run(feeds)["logits"]
    np.testing.assert_allclose(found, there, rtol=1e-5, atol=1e-5 * np.abs(there).max())
    assert saturation(for_x86, Dataset.from_arrays(feeds))


def test_vnni_on_a_processor_without(for_x86: onnx.ModelProto, on_avx2: Runner, samples: Array) -> None:
    """The other way round: there, signed activations keep clear of the kernels that saturate."""
    if kernels_here() != "x86-vnni":
        pytest.skip("this machine has no VNNI")
    signed = stand_in(for_x86, "x86-vnni", "x86-novnni")
    feeds = {"image": samples}
    here = Session(for_x86).run(feeds)["logits"]
    there = on_avx2(signed, feeds, signed=True)["logits"]
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-5 * np.abs(here).max())


@pytest.mark.slow
def test_real_networks_are_equal_bit_for_bit(zoo: Any, on_avx2: Runner, tmp_path: Path) -> None:
    for name in ("cifar10_resnet20_jpegft", "mobilenetv2_imagenet", "squeezenet1_1_imagenet"):
        graph = load(zoo.model(name))
        ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=Dataset.from_arrays(zoo.calib(name, 8)))
        run_pipeline(graph, Pipeline.parse("exact,quantize{ranges=mse}"), ctx)
        model = to_proto(graph)
        feeds = {key: value[:2] for key, value in zoo.eval(name, 2)[0].items()}
        there = on_avx2(model, feeds)
        found = Session(stand_in(model, "x86-novnni", "x86-vnni"), signed=True).run(feeds)
        for output, expected in there.items():
            np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        assert any(np.abs(Session(model).run(feeds)[o] - e).max() > 1e-3 * np.abs(e).max() for o, e in there.items())


@pytest.mark.parametrize(("mode", "pads"), [("SAME_UPPER", [0, 0, 1, 1]), ("SAME_LOWER", [1, 1, 0, 0])])
def test_padding_that_follows_from_sizes(layer: Layer, mode: str, pads: list[int]) -> None:
    rng = np.random.default_rng(0)
    weights = rng.choice(np.array([-127, 127], dtype=np.int8), (4, 4, 3, 3))
    image = rng.integers(0, 256, (1, 4, 8, 8)) - 9

    def sized(**attrs: Any) -> onnx.ModelProto:
        model = layer(weights, 9, 1e-4, strides=[2, 2], **attrs)
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, image.shape, strict=True):
            dim.dim_value = size
        graph = from_proto(model)
        annotate(graph)
        return to_proto(graph)

    assert (ran(sized(auto_pad=mode), image) == ran(sized(pads=pads), image)).all()
    plain = Session(sized(pads=pads)).run({"image": image.astype(np.float32)})["z"]
    assert (ran(sized(pads=pads), image) != plain).any()


def test_padding_that_nobody_knows_is_not_emulated(layer: Layer) -> None:
    model = layer(np.full((4, 4, 3, 3), 127, dtype=np.int8), 9, 1e-4, auto_pad="SAME_UPPER")
    assert "Clip" not in {node.op_type for node in stand_in(model, "x86-novnni", "x86-vnni").graph.node}


def test_convolutions_over_one_dimension(layer: Layer) -> None:
    rng = np.random.default_rng(0)
    weights = rng.choice(np.array([-127, 90, 127], dtype=np.int8), (4, 6, 3))
    image = rng.integers(0, 256, (1, 6, 11)) - 4
    flat = ran(layer(weights, 4, 1e-4, pads=[1, 2], strides=[2]), image)
    square = ran(layer(weights[:, :, None], 4, 1e-4, pads=[0, 1, 0, 2], strides=[1, 2]), image[:, :, None])
    assert (flat == square[:, :, 0]).all()

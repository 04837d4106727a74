from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lpcc.calibrate.patches import NoPatches, Patches, Reader, Results, Window, places, read
from lpcc.data import Dataset
from lpcc.formats.affine import Params
from lpcc.graph import from_proto


def layer(op: str, weights: np.ndarray, rank: int, **attrs: object) -> onnx.ModelProto:
    """A model of one layer without bias, from `x` to `y`."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], **attrs)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *[None] * (rank - 1)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(model: onnx.ModelProto, weights: np.ndarray, x: np.ndarray, per_image: int = 1000) -> None:
    """Patches times the matrix of the weights are what onnxruntime computes."""
    window = Window.of(from_proto(model).nodes[0], weights.shape)
    reader = Reader(model, [Patches("x", window), Results("y", window)], per_image)
    matrix = window.matrix(weights)
    np.testing.assert_array_equal(window.weights(matrix, weights.shape), weights)
    seen = 0
    for numbers, (patches, results) in read(Dataset.from_arrays({"x": x}), reader):
        assert len(patches) == len(results) == len(numbers)
        assert patches.shape[1:] == (*results.shape[1:3], window.depth)
        found = np.einsum("irgk,gko->irgo", patches, matrix)
        np.testing.assert_allclose(found, results, rtol=1e-4, atol=1e-4)
        seen += len(numbers)
    assert seen == len(x)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray, int]:
    rank = draw(st.integers(1, 2))
    groups, per_group, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))

    def axis(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, strides, dilations = axis(1, 3), axis(1, 3), axis(1, 2)
    attrs: dict[str, object] = {"group": groups, "strides": strides, "dilations": dilations}
    attrs["auto_pad"] = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if attrs["auto_pad"] == "NOTSET":
        attrs["pads"] = axis(0, 2) + axis(0, 2)
    elif attrs["auto_pad"] != "VALID":
        attrs["dilations"] = [1] * rank  # onnxruntime has no other
    sizes = [draw(st.integers(1 + 2 * (k - 1), 9)) for k in kernel]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weights = rng.normal(size=(groups * outputs, per_group, *kernel)).astype(np.float32)
    x = rng.normal(size=(draw(st.integers(1, 3)), groups * per_group, *sizes)).astype(np.float32)
    return layer("Conv", weights, rank + 2, **attrs), weights, x, draw(st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_patches_are_what_a_convolution_reads(case: tuple[onnx.ModelProto, np.ndarray, np.ndarray, int]) -> None:
    check(*case)


@pytest.mark.parametrize("trans", [0, 1])
def test_patches_of_gemm(trans: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 5) if trans else (5, 4)).astype(np.float32)
    check(layer("Gemm", weights, 2, transB=trans), weights, rng.normal(size=(11, 5)).astype(np.float32))


@pytest.mark.parametrize("shape", [(9, 5), (9, 7, 5), (9, 2, 3, 5)])
def test_patches_of_matmul(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 4)).astype(np.float32)
    check(layer("MatMul", weights, len(shape)), weights, rng.normal(size=shape).astype(np.float32), per_image=4)


def test_rows_do_not_depend_on_the_batches() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    model = layer("Conv", weights, 4)
    window = Window.of(from_proto(model).nodes[0], weights.shape)
    x = rng.normal(size=(7, 2, 12, 12)).astype(np.float32)
    whole = window.patches(x, 0, 9)
    single = np.concatenate([window.patches(x[i : i + 1], i, 9) for i in range(7)])
    np.testing.assert_array_equal(whole, single)


def test_integers_are_turned_to_numbers() -> None:
    window = Window.pixels(2)
    params = Params(np.float32(0.5), 3, np.dtype(np.uint8))
    data = Dataset.from_arrays({"x": np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)})
    reader = Reader(layer("Conv", np.ones((1, 1, 1, 1), np.float32), 4), [Patches("x", window, params)], 10)
    ((_, (rows,)),) = read(data, reader)
    np.testing.assert_array_equal(rows[0, :, 0], [[-1.5, 0.5], [-1.0, 1.0], [-0.5, 1.5], [0.0, 2.0]])


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 500), st.integers(1, 60))
def test_places_are_within_and_sorted(first: int, count: int, total: int, most: int) -> None:
    found = places(first, count, total, most)
    assert found.shape == (count, min(total, most))
    assert found.min() >= 0
    assert found.max() < total
    assert (np.diff(found, axis=1) >= 0).all()


def test_places_reach_all_of_an_image_in_time() -> None:
    found = places(0, 100, 144, 16)
    assert set(found.ravel()) == set(range(144))
    assert len({tuple(row) for row in found}) > 50  # other places in other images


@pytest.mark.parametrize(
    ("op", "shape", "attrs"), [("Gemm", (3, 4), {"transA": 1}), ("MatMul", (2, 3, 4), {}), ("Add", (3, 4), {})]
)
def test_other_layers_have_no_patches(op: str, shape: tuple[int, ...], attrs: dict[str, int]) -> None:
    node = from_proto(layer(op, np.ones(shape, np.float32), len(shape), **attrs)).nodes[0]
    with pytest.raises(NoPatches, match=f"{op} with weights of shape"):
        Window.of(node, shape)


def test_tensors_that_do_not_suit_the_window() -> None:
    window = Window.pixels(3)
    with pytest.raises(NoPatches, match="it reads"):
        window.patches(np.zeros((1, 2, 4, 4), np.float32), 0, 4)
    with pytest.raises(NoPatches, match="it writes"):
        window.results(np.zeros((1, 2, 4, 4), np.float32), 0, 4)
    ((batch, *_),) = ([batch] for batch in Dataset.from_arrays({"x": np.zeros((3, 1), np.float32)}).batches(8))
    with pytest.raises(NoPatches, match="does not count the images"):
        Patches("x", window).rows(np.zeros((2, 3, 4, 4), np.float32), batch, 0, 4)

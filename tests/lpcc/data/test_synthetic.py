from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.data import Dataset, TensorSpec
from lpcc.data.moments import MomentProbe
from lpcc.data.textures import collage, dead_leaves, power_noise, scene, thing
from lpcc.errors import DataError
from lpcc.runtime import Session

F32 = np.dtype(np.float32)


def normed(scale: float, offset: tuple[float, float, float], batch: int | str = "batch") -> onnx.ModelProto:
    """A network whose batch norm remembers images of that scale and those offsets."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    shape = [batch, 3, "h", "w"]
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    norm = helper.make_node("BatchNormalization", ["c", "one", "zero", "mean", "var"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, None)
    bare = helper.make_graph([conv], "g", [x], [out], [numpy_helper.from_array(weights, "w")])
    opset = [helper.make_opsetid("", 17)]
    images = np.stack([scene(np.random.default_rng([9, i]), 3, 32, 32) for i in range(200)])
    images = np.float32(scale) * images + np.asarray(offset, np.float32)[:, None, None]
    if batch == 1:
        found = np.concatenate([run(bare, opset, images[i : i + 1]) for i in range(200)])
    else:
        found = run(bare, opset, images)
    vectors = {"mean": found.mean((0, 2, 3)), "var": found.var((0, 2, 3)), "one": np.ones(16), "zero": np.zeros(16)}
    tensors = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in vectors.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([conv, norm], "g", [x], [y], [numpy_helper.from_array(weights, "w"), *tensors])
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def run(graph: onnx.GraphProto, opset: list[onnx.OperatorSetIdProto], x: np.ndarray) -> np.ndarray:
    return Session(helper.make_model(graph, opset_imports=opset, ir_version=8)).run({"x": x})["c"]


def everything(data: Dataset, size: int = 8) -> dict[str, np.ndarray]:
    parts = [b.feeds for b in data.batches(size)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(255.0, (0.0, 0.0, 0.0)), (2.0, (-1.0, -1.0, -1.0)), (255.0, (-104.0, -117.0, -123.0)), (4.4, (-2.1, -2.0, -1.8))],
)
@pytest.mark.parametrize("batch", ["batch", 1])
def test_finds_how_the_networks_images_were_normalised(
    scale: float, offset: tuple[float, float, float], batch: int | str
) -> None:
    data = Dataset.synthetic(normed(scale, offset, batch), 48, seed=0, size=32)
    images = everything(data)["x"]
    truth = np.stack([scene(np.random.default_rng([5, i]), 3, 32, 32) for i in range(48)])
    truth = np.float32(scale) * truth + np.asarray(offset, np.float32)[:, None, None]
    assert 0.7 < images.std() / truth.std() < 1.4
    assert np.abs(images.mean((0, 2, 3)) - truth.mean((0, 2, 3))).max() < 0.35 * truth.std()
    assert data.is_synthetic
    assert not data.labelled
    assert "matched to 1 batch norms" in data.description


def test_same_seed_same_images_whatever_the_batch() -> None:
    model = normed(1.0, (0.0, 0.0, 0.0))
    first = everything(Dataset.synthetic(model, 5, seed=3, size=24), 2)["x"]
    again = everything(Dataset.synthetic(model, 9, seed=3, size=24), 5)["x"][:5]
    other = everything(Dataset.synthetic(model, 5, seed=4, size=24), 2)["x"]
    np.testing.assert_array_equal(first, again)
    assert first.shape == (5, 3, 24, 24)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first}) == 5


def test_values_for_inputs_that_are_no_images() -> None:
    specs = [
        TensorSpec("tokens", np.dtype(np.int64), ("batch", 7)),
        TensorSpec("mask", np.dtype(bool), ("batch", 7)),
        TensorSpec("raw", np.dtype(np.uint8), ("batch", 8, 9, 3)),
        TensorSpec("vector", np.dtype(np.float16), ("batch", 50)),
        TensorSpec("many", F32, ("batch", 5, 6, 6)),
    ]
    out = everything(Dataset.synthetic(specs, 20))
    assert {name: (x.dtype, x.shape) for name, x in out.items()} == {
        s.name: (s.dtype, (20, *(s.shape or ())[1:])) for s in specs
    }
    assert out["tokens"].min() >= 0
    assert out["tokens"].max() < 10
    assert out["mask"].any()
    assert not out["mask"].all()
    assert out["raw"].max() > 200
    assert np.isfinite(out["vector"]).all()


def test_tokens_stay_within_their_table() -> None:
    node = helper.make_node("Gather", ["table", "t"], ["y"])
    table = numpy_helper.from_array(np.zeros((3, 4), np.float32), "table")
    t = helper.make_tensor_value_info("t", TensorProto.INT64, ["n", 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "g", [t], [y], [table]), ir_version=8)
    assert set(everything(Dataset.synthetic(model, 40))["t"].ravel().tolist()) == {0, 1, 2}


def test_scalars_and_inputs_without_a_sample_axis() -> None:
    specs = [TensorSpec("a", F32, (2, 3)), TensorSpec("b", F32, (3, 4)), TensorSpec("c", F32, ())]
    (one, _) = Dataset.synthetic(specs, 2).batches(4)
    assert {name: x.shape for name, x in one.feeds.items()} == {"a": (2, 3), "b": (3, 4), "c": ()}


def test_without_a_sample_axis_what_is_free_in_front_is_one_as_costs_have_it() -> None:
    inputs = [
        TensorSpec("x", F32, ("batch", "length")),
        TensorSpec("state", F32, (2, "batch", 128)),
        TensorSpec("k", F32, ()),
    ]
    feeds = next(iter(Dataset.synthetic(inputs, 2).batches(1))).feeds
    assert {name: value.shape for name, value in feeds.items()} == {"x": (1, 224), "state": (2, 1, 128), "k": ()}


def test_a_model_without_inputs_is_fed_nothing() -> None:
    assert [(b.feeds, b.count) for b in Dataset.synthetic((), 2).batches(4)] == [({}, 1), ({}, 1)]


@pytest.mark.parametrize(
    "spec", [TensorSpec("x", None, None), TensorSpec("x", F32, None), TensorSpec("x", np.dtype(object), (1,))]
)
def test_refuses_what_cannot_be_made_up(spec: TensorSpec) -> None:
    with pytest.raises(DataError, match="cannot be made up: give data for it"):
        Dataset.synthetic([spec], 2)


def test_a_size_that_the_model_cannot_take_gives_way_to_one_it_can() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["y"]),  # 3 * 64 * 64 values
    ]
    shape = numpy_helper.from_array(np.array([-1, 3 * 64 * 64]), "shape")
    sliced = helper.make_node("MatMul", ["y", "w"], ["z"])
    w = numpy_helper.from_array(np.ones((3 * 64 * 64, 1), np.float32), "w")
    check = helper.make_node("Reshape", ["z", "one"], ["out"])  # one row per image: fails for larger ones
    one = numpy_helper.from_array(np.array([1, 1]), "one")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([*nodes, sliced, check], "g", [x], [out], [shape, w, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert everything(Dataset.synthetic(model, 2))["x"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 1, 9), (4, 33, 17), (1, 28, 28)])
def test_pictures_fill_their_range(size: tuple[int, int, int]) -> None:
    makers: list[Any] = [
        scene,
        thing,
        collage,
        lambda *a: dead_leaves(*a, softness=2.0),
        lambda *a: power_noise(*a, exponent=1.0),
    ]
    for make in makers:
        pictures = np.stack([make(np.random.default_rng(i), *size) for i in range(8)])
        assert pictures.shape == (8, *size)
        assert pictures.dtype == np.float32
        assert np.isfinite(pictures).all()
        assert 0 <= pictures.min() <= pictures.max() <= 1
        assert size[1] == 1 or pictures.std() > 0.1


def test_collages_are_textured_at_all_scales_and_depend_on_the_seed_alone() -> None:
    def gradients(make: Any) -> np.ndarray:
        pictures = np.stack([make(np.random.default_rng(i), 3, 96, 96) for i in range(12)])
        grey = pictures.mean(axis=1)
        return np.array([np.abs(grey[:, :, step:] - grey[:, :, :-step]).mean() for step in (1, 2, 4, 8)])

    assert (gradients(collage) > 1.5 * gradients(scene)).all()
    one, again, other = (collage(np.random.default_rng(seed), 3, 40, 24) for seed in (1, 1, 2))
    assert (one == again).all()
    assert np.abs(one - other).mean() > 0.05


def test_probe_knows_the_true_moments() -> None:
    model = normed(1.0, (0.0, 0.0, 0.0))
    probe = MomentProbe(model)
    x = np.stack([scene(np.random.default_rng([9, i]), 3, 32, 32) for i in range(200)])
    assert len(probe) == 1
    assert probe.mismatch([{"x": x}]) < 1e-4
    assert probe.mismatch([{"x": x[:100]}, {"x": x[100:]}]) < 1e-4
    assert probe.mismatch([{"x": x * 2}]) > 0.3
    assert probe.mismatch([{"x": np.full_like(x, np.nan)}]) == 9.0


def test_zoo_images_are_matched(zoo: Any) -> None:
    for name in ("cifar10_resnet20_jpegft", "mlperf_resnet8_cifar10", "fashion_mnist_vgg"):
        model = onnx.load(zoo.model(name))
        probe = MomentProbe(model)
        made = probe.mismatch([b.feeds for b in Dataset.synthetic(model, 32).batches(32)])
        spec = TensorSpec.inputs_of(model)
        noise = np.random.default_rng(0).standard_normal((32, *(spec[0].shape or ())[1:])).astype(np.float32)
        assert made < 0.3
        assert made < 0.4 * probe.mismatch([{spec[0].name: noise}])

"""What is done without images: what stands in for them, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lpcc
from lpcc.analysis.bounds import limited
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.data.preprocess import Preprocess
from lpcc.data.textures import scene
from lpcc.graph import from_proto
from lpcc.runtime import Session, with_outputs


def _relu6(scale: float, offset: float, *, limits: bool = True) -> onnx.ModelProto:
    """Three convolutions, each behind it a ReLU6 (or a ReLU); scaled as if trained on images of that normalisation."""
    rng = np.random.default_rng(0)
    images = np.stack([scene(np.random.default_rng([5, i]), 3, 32, 32) for i in range(8)])
    tensors = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0.0), ("six", 6.0))]
    nodes: list[onnx.NodeProto] = []
    x, channels = "x", 3
    for index in range(3):
        w = rng.standard_normal((24, channels, 3, 3)).astype(np.float32)
        conv = helper.make_node("Conv", [x, f"w{index}", f"b{index}"], [f"c{index}"], pads=[1, 1, 1, 1])
        ends = ["zero", "six"] if limits else []
        last = helper.make_node("Clip" if limits else "Relu", [f"c{index}", *ends], [f"r{index}"])
        nodes += [conv, last]
        tensors.append(numpy_helper.from_array(w, f"w{index}"))
        tensors.append(numpy_helper.from_array(np.zeros(24, np.float32), f"b{index}"))
        model = _model(nodes, tensors, f"r{index}")
        found = Session(with_outputs(model, [f"c{index}"]), optimise=False).run(
            {"x": (scale * images + offset).astype(np.float32)}, [f"c{index}"]
        )[f"c{index}"]
        mean, std = found.mean(axis=(0, 2, 3)), found.std(axis=(0, 2, 3))
        # A batch norm of gain 1 and shift 0.5, folded.
        tensors[-2] = numpy_helper.from_array((w / std[:, None, None, None]).astype(np.float32), f"w{index}")
        tensors[-1] = numpy_helper.from_array((0.5 - mean / std).astype(np.float32), f"b{index}")
        x, channels = f"r{index}", 24
    tensors.append(numpy_helper.from_array(rng.standard_normal((10, 24, 1, 1)).astype(np.float32), "v"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["p"]))
    nodes.append(helper.make_node("Conv", ["p", "v"], ["s"]))
    nodes.append(helper.make_node("Flatten", ["s"], ["y"]))
    return _model(nodes, tensors, "y")


def _model(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], output: str) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 10] if output == "y" else ["N", 24, 32, 32])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _limits(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    graph = from_proto(model)
    annotate(graph)
    return limited(graph)


def test_limits_are_those_of_clips_behind_convolutions():
    assert _limits(_relu6(1, 0)) == {f"r{index}": (0.0, 6.0) for index in range(3)}
    assert _limits(_relu6(1, 0, limits=False)) == {}


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (2.0, -1.0), (4.4, -2.1), (255.0, 0.0), (255.0, -128.0)])
def test_images_cover_those_of_the_usual_normalisations(scale, offset):
    model = _relu6(scale, offset)
    images = np.concatenate([b.feeds["x"] for b in Dataset.synthetic(model, 32, 0, limits=_limits(model)).batches(8)])
    assert images.min() <= offset + 0.1 * scale
    assert images.max() >= offset + 0.9 * scale
    assert images.max() - images.min() <= 5 * scale


def test_a_stated_preprocessing_is_followed():
    recipe = Preprocess(divide=255.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = _relu6(255.0, 0.0)
    data = Dataset.synthetic(model, 16, 0, preprocess=recipe, limits=_limits(model))
    images = np.concatenate([b.feeds["x"] for b in data.batches(8)])
    assert images.min() == pytest.approx(-2.0, abs=0.1)
    assert images.max() == pytest.approx(2.0, abs=0.1)
    assert "in [-2, 2]" in data.description


def test_without_batch_norms_images_are_collages_and_with_them_what_these_tell():
    model = _relu6(4.4, -2.1)
    assert "collages in" in Dataset.synthetic(model, 4, 0, limits=_limits(model)).description
    recipe = Preprocess(divide=255.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    stated = Dataset.synthetic(model, 4, 0, preprocess=recipe, limits=_limits(model))
    assert "collages in [-2, 2]" in stated.description
    assert "scenes in" in Dataset.synthetic(model, 4, 0).description


def _quantised(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_limited_activations_stand_in_for_batch_norms_and_the_report_says_so(tmp_path: Path):
    pipeline = "exact,quantize{ranges=mse min-work=0}"
    model = _relu6(4.4, -2.1)
    result = lpcc.optimize(model, target="arm-cortex-a", pipeline=pipeline, min_agreement=0)
    notes = " ".join(result.report.notes)
    assert "not verified by real data" in notes
    assert "no batch norms tell what images look like" in notes
    assert result.report.quality.data == "synthetic"
    assert _quantised(result.model) or "taken back" in " ".join(result.report.verdict.reasons)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("divide = 255.0\nmean = [0.5]\nstd = [0.25]\n")
    stated = lpcc.optimize(model, target="arm-cortex-a", pipeline=pipeline, preprocess=recipe, min_agreement=0)
    assert "not verified by real data" in " ".join(stated.report.notes)
    assert "no batch norms tell" not in " ".join(stated.report.notes)


def test_without_limits_it_stays_in_float():
    result = lpcc.optimize(_relu6(4.4, -2.1, limits=False), target="arm-cortex-a")
    assert not _quantised(result.model)
    assert any("stays in float" in note for note in result.report.notes)


@pytest.mark.slow
def test_mobilenet_keeps_its_classes_without_images(zoo: Any):
    name = "mobilenetv2_imagenet"
    result = lpcc.optimize(zoo.model(name), target="x86-avx512-vnni")
    assert _quantised(result.model)
    assert result.report.verdict.kept == "optimised"  # no layer went back to float
    images, labels = zoo.eval(name, 300)

    def scores(model: Any) -> Any:
        session = Session(model)
        parts = [{k: v[i : i + 20] for k, v in images.items()} for i in range(0, 300, 20)]
        return np.concatenate([next(iter(session.run(part).values())) for part in parts])

    before, after = scores(zoo.model(name)), scores(result.model)
    top = before.argmax(axis=1), after.argmax(axis=1)
    # Seen: 96.3 %, 22.8 dB and a fall by 4 images of 300. That is more than one point.
    assert (top[0] == top[1]).mean() >= 0.95
    assert np.square(before).sum() >= 10**2.1 * np.square(before - after).sum()
    assert (top[0] == labels).mean() - (top[1] == labels).mean() < 5.5 / 300

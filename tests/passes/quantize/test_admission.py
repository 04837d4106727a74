"""Models that are quantised already come through as they are, and the reason says in which form they are."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context
from lpcc.runtime import TensorSpec
from lpcc.target import Target
from lpcc.testing.golden import read_model

MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,12,12] x) => (float[N,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,5] w3, float[5] b3>
{
    a = Conv(x, w1, b1)
    b = Relu(a)
    c = Conv(b, w2, b2)
    d = Relu(c)
    e = GlobalAveragePool(d)
    f = Flatten(e)
    y = Gemm(f, w3, b3)
}
"""
IMAGES = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model = read_model(MODEL)
    for node, name in zip(model.graph.node, ("conv1", "relu1", "conv2", "relu2", "pool", "flat", "fc"), strict=True):
        node.name = name
    onnx.save(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx", tmp_path / "int8.onnx"


def static(files, form, **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(IMAGES)

        def get_next(self):
            row = next(self.rows, None)
            return None if row is None else {"x": row[None]}

    source, target = files
    logging.disable(logging.WARNING)
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, **options}
    quantize_static(source, target, Reader(), quant_format=QuantFormat[form], **options)
    logging.disable(logging.NOTSET)
    return onnx.load(target)


def judged(model):
    graph = from_proto(model)
    annotate(graph)
    before = to_proto(graph).SerializeToString(deterministic=True)
    data = Dataset.from_arrays({"x": IMAGES}, inputs=TensorSpec.inputs_of(model))
    changes = Quantize(ranges="minmax").run(graph, Context(target=Target.load("x86-avx512-vnni"), calibration=data))
    assert not changes
    assert to_proto(graph).SerializeToString(deterministic=True) == before
    (refused,) = changes.refused
    return refused.reason


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_whole_models(files, form, per_channel):
    reason = judged(static(files, form, per_channel=per_channel))
    assert reason.startswith(f"the model is quantised already ({form} form")
    assert "passed through" in reason


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_models_in_part(files, form):
    reason = judged(static(files, form, nodes_to_exclude=["conv2"]))
    assert reason.startswith(f"the model is quantised in part already ({form} form")
    assert "1 of 3 layers with weights are in float" in reason


def test_dynamic(files):
    from onnxruntime.quantization import quantize_dynamic

    source, target = files
    logging.disable(logging.WARNING)
    quantize_dynamic(source, target)
    logging.disable(logging.NOTSET)
    assert judged(onnx.load(target)).startswith("the model is quantised already (dynamic form")


def test_weights_alone(files):
    """A model whose weights alone are stored as integers computes in float; it is passed through just so."""
    model = onnx.load(files[0])
    graph = model.graph
    weight = next(t for t in graph.initializer if t.name == "w1")
    integers = np.rint(numpy_helper.to_array(weight) * 50).clip(-127, 127).astype(np.int8)
    graph.initializer.remove(weight)
    graph.initializer.append(numpy_helper.from_array(integers, "w1_integers"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "w1_scale"))
    graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["w1_integers", "w1_scale"], ["w1"]))
    assert "2 of 3 layers with weights are in float" in judged(model)


def test_batch_norms_are_reported(context):
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,4,8,8] x) => (float[N,4,8,8] y)
    <float[4,4,3,3] w, float[4] s, float[4] b, float[4] m, float[4] v = {1, 2, 1, 2}>
    { c = Conv<pads = [1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) y = Conv<pads = [1,1,1,1]>(n, w) }"""
    model = read_model(text)
    graph = from_proto(model)
    annotate(graph)
    changes = Quantize(ranges="minmax", min_work=0).run(graph, context(model))
    assert {r.node: r.reason for r in changes.refused}["n"].endswith("run `fold-bn` (part of `exact`) first")

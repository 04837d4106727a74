from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from lpcc.analysis.kernels import kernels
from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.targets.fit.networks import mlperf_tiny, stm32
from lpcc.targets.fit.networks.builder import Builder
from lpcc.targets.fit.networks.qdq import quantized


@pytest.mark.parametrize("name", ["ad", "ic", "kws", "vww"])
def test_all_kernels_are_int8(name: str) -> None:
    graph = from_proto(quantized(mlperf_tiny.NETWORKS[name]()))
    annotate(graph)
    found = kernels(graph, bind(graph), "cmsis-nn")
    assert {kernel.dtype for kernel in found} == {"int8"}
    assert not {"quantize", "dequantize"} & {kernel.kind for kernel in found}


def test_squeeze_and_excitation_and_concat_are_int8() -> None:
    for name, resolution in (("ST EfficientNet LC v1", "128x128x3"), ("SqueezeNet v1.1", "128x128x3")):
        model = stm32.build(name, resolution)
        assert model is not None
        graph = from_proto(quantized(model))
        annotate(graph)
        assert {kernel.dtype for kernel in kernels(graph, bind(graph), "cmsis-nn")} == {"int8"}


def test_it_computes_nearly_the_same_where_nothing_saturates() -> None:
    net = Builder("small")
    x = net.conv(net.input(1, 3, 8, 8), 8, 3, activation="relu")
    model = net.model(net.dense(net.flatten(net.global_pool(x)), 4))
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)
    steps = np.rint(pixels * 32).astype(np.int8)
    exact = _run(model.SerializeToString(), steps.astype(np.float32) / 32)
    made = _run(quantized(model).SerializeToString(), steps).astype(np.float32) / 32
    assert np.abs(made - exact).max() < 0.1


def test_inputs_and_outputs_are_integers() -> None:
    model = quantized(mlperf_tiny.keyword_spotting())
    types = {tensor.type.tensor_type.elem_type for tensor in (*model.graph.input, *model.graph.output)}
    assert types == {TensorProto.INT8}


def _run(model: bytes, feed: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: feed})
    return np.asarray(found)

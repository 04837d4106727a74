"""The test of placement is onnxruntime: what it makes of the quantised models."""

from __future__ import annotations

import numpy as np
import onnx.checker
import pytest

from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.graph import from_proto, load, to_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session, TensorSpec, count_kernels, optimised
from lpcc.target import Target
from lpcc.testing.golden import read_model

RESIDUAL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,24,24] x) => (float[N,10] y)
<float[16,3,3,3] w1, float[16] b1, float[16,1,3,3] w2, float[32,16,1,1] w3, float[32,32,3,3] w4, float[32] b4,
 float[10,64] w5, float[10] b5, float zero = {{0}}, float six = {{6}}>
{{
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)
    b = {activation}
    c = Conv<pads = [1,1,1,1], group = 16>(b, w2)
    d = Relu(c)
    e = Conv(d, w3)
    f = MaxPool<kernel_shape = [2,2], strides = [2,2]>(e)
    h = Conv<pads = [1,1,1,1]>(f, w4, b4)
    i = Add(h, f)
    j = Relu(i)
    k = Concat<axis = 1>(j, f)
    l = GlobalAveragePool(k)
    m = Flatten(l)
    y = Gemm<transB = 1>(m, w5, b5)
}}
"""


def sqnr(exact, found):
    return 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum())


def quantized(model, context, **options):
    """The model with all integer kernels that there are, whether they pay or not."""
    graph = from_proto(model)
    annotate(graph)
    changes = Quantize(**{"min_work": 0.0, **options}).run(graph, context)
    result = to_proto(graph)
    onnx.checker.check_model(result, full_check=True)
    return result, changes


@pytest.fixture(params=["Relu(a)", "Clip(a, zero, six)"])
def model(request):
    return read_model(RESIDUAL.format(activation=request.param))


@pytest.mark.parametrize("ranges", ["auto", "minmax", "percentile", "mse"])
def test_everything_runs_on_integers(model, context, ranges):
    result, _ = quantized(model, context(model, count=16), ranges=ranges)
    counts = count_kernels(optimised(result))
    assert counts.integer_convolutions == 4
    assert counts.float_convolutions == counts.float_products == counts.dequantize == 0
    assert counts.quantize == 1  # of the input
    assert "Relu" not in counts.by_op
    assert "Clip" not in counts.by_op


@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"reduce_range": True}, {"scheme": "s8s8"}])
def test_outputs_are_close(model, context, options):
    ctx = context(model, count=16)
    result, _ = quantized(model, ctx, ranges="minmax", **options)
    feeds = next(iter(ctx.calibration.batches(16))).feeds
    exact, found = (Session(m, optimise=False).run(feeds)["y"] for m in (model, result))
    assert sqnr(exact, found) > (22 if options else 28)


def test_signed_activations_put_relu_at_the_lower_end(model, context):
    result, _ = quantized(model, context(model, "arm-cortex-a"), ranges="minmax")
    zeros = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer if t.name.endswith("zero_point")}
    assert zeros["d_zero_point"] == -128
    assert {value.dtype for value in zeros.values()} == {np.dtype(np.int8)}


def test_calibration_runs_once_however_many_layers_are_skipped(model, context, monkeypatch):
    runs = []
    original = Dataset.batches
    monkeypatch.setattr(Dataset, "batches", lambda self, size: runs.append(size) or original(self, size))
    ctx = context(model)
    quantized(model, ctx, ranges="auto")
    before = len(runs)
    for skip in (("c",), ("c", "e"), ("c", "e", "h", "i")):
        _, changes = quantized(model, ctx, ranges="auto", skip=skip)
        assert {r.node for r in changes.refused if "skip" in r.reason} == set(skip)
    assert len(runs) == before


def test_no_target_kernels(model, context):
    graph = from_proto(model)
    annotate(graph)
    ctx = Context(target=None, calibration=context(model).calibration)
    changes = Quantize().run(graph, ctx)
    assert not changes
    assert "no int8 kernels" in changes.refused[0].reason


CLASSIFIERS = {
    "cifar10_resnet20_jpegft": (19, 28),
    "mlperf_resnet8_cifar10": (9, 22),
    "fashion_mnist_vgg": (5, 36),
    "mobilenetv2_imagenet": (52, 14),
    "squeezenet1_1_imagenet": (26, 29),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_all_convolutions_of_a_classifier(zoo, name):
    convolutions, floor = CLASSIFIERS[name]
    graph = load(zoo.model(name))
    run_pipeline(graph, Pipeline.parse("exact"), Context())
    exact = to_proto(graph)
    data = Dataset.from_arrays(zoo.calib(name, 32), inputs=TensorSpec.inputs_of(exact))
    ctx = Context(target=Target.load("x86-avx512-vnni"), calibration=data)
    Quantize(ranges="mse", min_work=0).run(graph, ctx)
    result = to_proto(graph)
    counts = count_kernels(optimised(result))
    assert counts.integer_convolutions == convolutions
    assert counts.float_convolutions == counts.float_products == 0
    assert counts.quantize + counts.dequantize <= 3  # in, and out of and back into integers around one pooling
    feeds, _ = zoo.eval(name, 20)
    a, b = (next(iter(Session(m).run(feeds).values())) for m in (exact, result))
    assert sqnr(a, b) > floor


def test_depthwise_weights_have_a_scale_for_each_channel_in_any_case(model, context):
    result, _ = quantized(model, context(model), ranges="minmax", per_channel=False)
    sizes = {t.name: list(t.dims) for t in result.graph.initializer}
    assert sizes["w2_scale"] == [16]
    assert sizes["w1_scale"] == sizes["w4_scale"] == []

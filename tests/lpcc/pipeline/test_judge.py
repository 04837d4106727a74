"""Results are judged by what the target's kernels make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import lpcc
from lpcc import simulate
from lpcc.data import Dataset
from lpcc.errors import ModelError, UsageError
from lpcc.pipeline import Context
from lpcc.pipeline.judge import Budget, ImageJudge
from lpcc.quality import compare
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,8,12,12] image) => (float[batch,10] logits)
<float[32,8,3,3] w1, float[32,32,3,3] w2, float[32] b2, float[10,32] fc>
{
  [conv1] c1 = Conv<pads=[1,1,1,1]>(image, w1)
  [relu1] r1 = Relu(c1)
  [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
  [add] s = Add(c2, r1)
  [relu2] r2 = Relu(s)
  [pool] p = GlobalAveragePool(r2)
  [flat] f = Flatten(p)
  [fc] logits = Gemm<transB=1>(f, fc)
}
"""
PIPELINE = "exact,quantize{ranges=minmax min-work=0}"


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return read_model(NETWORK)


@pytest.fixture(scope="module")
def images() -> Dataset:
    x = np.random.default_rng(0).standard_normal((24, 8, 12, 12)).astype(np.float32)
    return Dataset.from_arrays({"image": x})


def quantized(network: onnx.ModelProto, images: Dataset, target: str, **options: Any) -> lpcc.Result:
    return lpcc.optimize(network, target=target, pipeline=PIPELINE, calib=images, **options)


@pytest.mark.parametrize(
    ("target", "kernels"),
    [
        ("arm-cortex-a72", "arm"),
        ("raspberry-pi-5", "arm"),
        ("x86-avx2", "x86-novnni"),
        ("x86-avx512-vnni", "x86-vnni"),
        ("arm-cortex-m4", None),
        ("arm-cortex-a76/ncnn", None),
        ("eyeriss", None),
    ],
)
def test_kernels_of_targets(target: str, kernels: str | None) -> None:
    assert simulate.kernels_of(Target.load(target)) == kernels


def test_an_arm_target_is_judged_by_what_arm_computes(network: onnx.ModelProto, images: Dataset) -> None:
    found = quantized(network, images, "arm-cortex-a72")
    assert found.report.quality.emulated == "arm"
    there = Session(simulate.stand_in(found.model, "arm", simulate.kernels_here()), signed=True)
    expected = compare(network, there, images).worst_sqnr_db
    assert found.report.quality.sqnr_db == pytest.approx(expected, abs=1e-4)


def test_no_kernels_are_emulated_where_they_are_here(network: onnx.ModelProto, images: Dataset) -> None:
    if simulate.kernels_here() != "x86-vnni":
        pytest.skip("this machine has other kernels")
    assert quantized(network, images, "x86-avx512-vnni").report.quality.emulated is None


def test_emulation_can_be_asked_for(network: onnx.ModelProto, images: Dataset) -> None:
    here = quantized(network, images, "x86-avx512-vnni", emulate="x86-vnni").report.quality
    there = quantized(network, images, "x86-avx512-vnni", emulate="x86-novnni").report.quality
    assert (here.emulated, there.emulated) == ("x86-vnni", "x86-novnni")
    assert here.sqnr_db is not None
    assert there.sqnr_db is not None
    assert there.sqnr_db < here.sqnr_db
    with pytest.raises(UsageError, match="did you mean arm"):
        quantized(network, images, "x86-avx512-vnni", emulate="amr")


def test_seven_bits_lose_nothing_without_vnni(network: onnx.ModelProto, images: Dataset) -> None:
    report = quantized(network, images, "x86-avx2").report
    assert report.quality.emulated == "x86-novnni"
    assert not [layer for layer in report.layers if layer.saturated]


def test_images_are_fewer_where_saturation_is_emulated(network: onnx.ModelProto) -> None:
    x = np.random.default_rng(0).standard_normal((300, 8, 12, 12)).astype(np.float32)
    labels = np.zeros(300, dtype=np.int64)
    data = Dataset.from_arrays({"image": x}, labels)
    ctx = Context(evaluation=data)
    budget = Budget.of("top1", 1.0, None, None, labelled=True)
    counts = {k: ImageJudge(network, ctx, budget, k)(network).samples for k in ("arm", "x86-novnni")}  # type: ignore[arg-type]
    assert counts == {"arm": 300, "x86-novnni": 256}


def test_noise_of_layers_counts_what_they_lose(network: onnx.ModelProto, images: Dataset) -> None:
    result = quantized(network, images, "x86-avx512-vnni").model
    ctx, budget = Context(calibration=images), Budget.of(None, None, None, None, labelled=False)
    plain, cut = (ImageJudge(network, ctx, budget, kernels) for kernels in (None, "x86-novnni"))  # type: ignore[arg-type]
    (lost,) = [found for found in cut.saturation(result) if found.tensor == "c2"]
    noise = [10 ** (-judge.layer_noise(network, result, ["c2"])["c2"] / 10) for judge in (plain, cut)]
    assert noise[1] == pytest.approx(noise[0] + 10 ** (-lost.sqnr_db / 10), rel=1e-9)
    assert noise[1] > noise[0]


def _linear(shift: np.ndarray, flip: float = 1.0) -> onnx.ModelProto:
    """``y = flip * x + shift`` for 10 classes."""
    text = "g (float[N,10] x) => (float[N,10] y)\n<float[10,10] w, float[10] b>\n{ y = Gemm(x, w, b) }"
    model = read_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    values = {"w": flip * np.eye(10, dtype=np.float32), "b": shift.astype(np.float32)}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    return model


@pytest.mark.parametrize("made_up", [True, False])
def test_on_made_up_images_choices_count_as_much_as_the_original_is_sure(made_up: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 10)).astype(np.float32)
    x[::2] *= 0.01  # of these nobody can tell the class
    x[1::2] = 8 * np.eye(10, dtype=np.float32)[rng.integers(0, 10, 20)]
    real = Dataset.from_arrays({"x": x})
    data = Dataset(real._source, real._inputs, is_synthetic=made_up)
    judge = ImageJudge(_linear(np.zeros(10)), Context(calibration=data), Budget(None, None, None, None))
    slightly_off = judge(_linear(rng.normal(0, 0.1, 10)))
    assert slightly_off.agreement is not None
    assert (slightly_off.problem is None) is made_up
    assert (slightly_off.agreement > 99) is made_up
    assert judge(_linear(np.zeros(10), flip=-1.0)).problem is not None
    assert judge(_linear(np.zeros(10))).agreement == pytest.approx(100)


def test_an_original_that_gives_only_nan_is_no_measure() -> None:
    x = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    context = Context(calibration=Dataset.from_arrays({"x": x}))
    broken = _linear(np.full(10, np.nan))
    with pytest.raises(ModelError, match="output `y` of the original is NaN for the first image"):
        ImageJudge(broken, context, Budget(None, None, None, None))(broken)
    some = np.zeros(10)
    some[3] = np.nan
    ImageJudge(_linear(some), context, Budget(None, None, None, None))(_linear(some))

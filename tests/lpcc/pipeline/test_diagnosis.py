"""The cause of a layer's noise is the one that was put there, and the remedy is one that helps."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest

import lpcc
from lpcc.analysis.runtimes import runtime_of
from lpcc.cli.options import names
from lpcc.data import Dataset
from lpcc.graph import clone, from_proto
from lpcc.passes import Quantize
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.diagnosis import Cause, Diagnosis, diagnose, remedy, share
from lpcc.pipeline.layers import matching
from lpcc.pipeline.noise import LayerNoise, noise_of_layers, worst
from lpcc.pipeline.runner import run_pipeline
from lpcc.simulate import Saturation
from lpcc.target import Target
from lpcc.testing.golden import read_model

Array = np.ndarray[Any, Any]

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,8,12,12] image) => (float[batch,10] logits)
<float[16,8,3,3] w1, float[16,16,3,3] w2, float[10,16] fc>
{
  [conv1] c1 = Conv<pads=[1,1,1,1]>(image, w1)
  [conv2] c2 = Conv<pads=[1,1,1,1]>(c1, w2)
  [add] s = Add(c2, c1)
  [pool] p = GlobalAveragePool(s)
  [flat] f = Flatten(p)
  [fc] logits = Gemm<transB=1>(f, fc)
}
"""


def images(outlier: float = 1.0) -> Array:
    x = np.random.default_rng(0).standard_normal((16, 8, 12, 12)).astype(np.float32)
    x[:, 5] *= outlier
    return x


def found(
    options: str = "",
    data: Array | None = None,
    saturated: tuple[Saturation, ...] = (),
    ran: tuple[str, ...] = ("quantize",),
    target: str = "x86-avx512-vnni",
    wide: frozenset[str] = frozenset(),
) -> dict[str, Diagnosis]:
    """The diagnoses of the network, quantised with these options."""
    exact = from_proto(read_model(NETWORK))
    dataset = Dataset.from_arrays({"image": images() if data is None else data})
    ctx = Context(target=Target.load(target), calibration=dataset)
    result = clone(exact)
    run_pipeline(result, Pipeline.parse(f"quantize{{{options or 'ranges=minmax'} min-work=0}}"), ctx)
    noise = [LayerNoise("conv1", 30.0, 20.0), LayerNoise("conv2", 25.0, 5.0), LayerNoise("add", 25.0, -1.0)]
    return {one.noise.layer: one for one in diagnose(exact, result, noise, dataset, ran, saturated, wide)}


def test_those_that_add_noise_the_worst_first() -> None:
    assert list(found()) == ["conv1", "conv2"]


def test_rounding() -> None:
    one = found()["conv2"]
    assert one.cause.kind in ("resolution", "weights")
    assert "coarse" in one.cause.detail


def test_a_range_that_cuts_off() -> None:
    one = found("ranges=percentile percentile=80")["conv1"]
    assert one.cause.kind == "clipping"
    assert "of the values" in one.cause.detail
    assert one.remedy == "quantize{ranges=minmax}, or --keep conv1"


def test_a_channel_that_reaches_far() -> None:
    one = found(data=images(outlier=200))["conv1"]
    assert one.cause.kind == "outliers"
    assert one.cause.detail.startswith("channel 5 of its input reaches")
    assert "evens channels out" in one.remedy
    assert found(data=images(outlier=200), ran=("equalize", "quantize"))["conv1"].remedy == "--keep conv1"


def test_weights_of_few_bits() -> None:
    one = found("ranges=minmax weight-bits=4")["conv1"]
    assert one.cause == Cause("weights", "its weights are coarse: 4 bits")


def test_weights_of_one_scale() -> None:
    one = found("ranges=minmax weight-bits=4 per-channel=false")["conv1"]
    assert one.cause == Cause("weights", "its weights are coarse: 4 bits, one scale for all")


def test_saturation_that_outweighs_the_rest() -> None:
    cut = Saturation("conv1", "c1", 0.02, 12.0)
    one = found(saturated=(cut,))["conv1"]
    assert one.cause.kind == "saturation"
    assert one.cause.detail == "2 % of its 16-bit sums are cut off"
    assert one.remedy == "quantize{reduce-range=true}, or --keep conv1"
    mild = Saturation("conv1", "c1", 1e-6, 90.0)
    assert found(saturated=(mild,))["conv1"].cause.kind != "saturation"


@pytest.mark.parametrize(
    ("kind", "ran", "expected"),
    [
        ("weights", {"quantize"}, "--preset accurate rounds weights by what they do, or --keep a"),
        ("weights", {"quantize", "adaround"}, "--keep a"),
        ("outliers", {"quantize"}, "the pass equalize evens channels out, or --keep a"),
        ("resolution", {"quantize"}, "--keep a"),
        ("arithmetic", {"quantize"}, "--keep a"),
        ("clipping", {"quantize"}, "quantize{ranges=minmax}, or --keep a"),
        ("saturation", {"quantize"}, "quantize{reduce-range=true}, or --keep a"),
        ("factors", {"factorize"}, 'factorize{skip="a"}'),
    ],
)
def test_remedies(kind: Any, ran: set[str], expected: str) -> None:
    assert remedy(kind, "a", ran, {"quantize", "adaround"}) == expected


def test_16_bits_are_a_remedy_where_the_runtime_has_them() -> None:
    assert remedy("resolution", "a", {"quantize"}, set(), widens=True) == 'quantize{bits="a=16"}, or --keep a'
    assert remedy("weights", "a", {"quantize", "adaround"}, set(), widens=True) == "--keep a"  # which have 8 anyway
    typed = remedy("arithmetic", 'fc "1"', {"quantize"}, set(), widens=True).split(", or ")[0]
    (item,) = Pipeline.parse(typed)
    assert item == Quantize(bits=('fc "1"=16',))


def test_a_layer_that_has_16_bits_or_no_such_kernel_is_not_told_to_take_them() -> None:
    wide = runtime_of("cmsis-nn").integer_rules().wide
    assert found(target="arm-cortex-m4", wide=wide)["conv1"].remedy == 'quantize{bits="conv1=16"}, or --keep conv1'
    given = found('ranges=minmax bits="conv1=16"', target="arm-cortex-m4", wide=wide)
    assert "16" not in given["conv1"].remedy
    assert "16" not in found(target="arm-cortex-m4")["conv1"].remedy


@pytest.mark.parametrize("name", ["block 1/fc, out", '"fc"', " fc", "ü,", "a\\,b", "fc 'x'", "conv[0]*"])
def test_remedies_can_be_typed_whatever_the_layer_is_called(name: str) -> None:
    _, typed = shlex.split(remedy("arithmetic", name, {"quantize"}, set()))
    assert matching([name, "other"], names("--keep", [typed]), "keep") == {name}


def test_shares_in_words() -> None:
    assert [share(part) for part in (0.5, 0.0123, 1e-4, 2e-6, 0.0)] == [
        "50 %",
        "1.2 %",
        "0.01 %",
        "1 in 500,000",
        "none",
    ]


def test_damage_is_the_fall_from_the_noisiest_input() -> None:
    graph = from_proto(read_model(NETWORK))
    sqnr = {"c1": 70.0, "c2": 25.0, "s": 26.0}
    noise = noise_of_layers(
        graph, read_model(NETWORK), read_model(NETWORK), {"conv1", "conv2", "add"}, lambda _a, _b, _names: sqnr
    )
    assert [(one.layer, one.sqnr_db, one.damage_db) for one in noise] == [
        ("conv1", 70.0, 0.0),  # above 60 dB nothing counts
        ("conv2", 25.0, 35.0),
        ("add", 26.0, -1.0),  # against c2
    ]
    assert [one.layer for one in worst(noise)] == ["conv2", "conv1", "add"]


def test_the_report_names_them() -> None:
    x = np.random.default_rng(0).standard_normal((16, 8, 12, 12)).astype(np.float32)
    report = lpcc.optimize(
        read_model(NETWORK),
        target="arm-cortex-a72",
        pipeline="exact,quantize{min-work=0 ranges=mse}",
        calib={"image": x},
    ).report
    assert report.worst
    assert report.worst[0].damage_db == max(layer.damage_db or 0 for layer in report.layers)
    assert all(f"--keep {layer.name}" in layer.remedy for layer in report.worst)
    assert report.after.bits_per_weight is not None
    assert report.before.bits_per_weight == 32
    assert 8 < report.after.bits_per_weight < 10
    assert next(iter(report.after.bytes_by_type)) == "int8"

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.cost.kinds import ELEMENT_KINDS, MAC_KINDS
from lpcc.errors import UsageError
from lpcc.graph import from_proto
from lpcc.runtime import Session
from lpcc.target import Int8, Target, numbers_of
from lpcc.targets.fit.host import measure as work
from lpcc.targets.fit.host.fitting import Coefficients, Sample, fit, workload
from lpcc.targets.fit.host.formulas import terms
from lpcc.targets.fit.host.net import Net
from lpcc.targets.fit.host.probes import Probe, probes
from lpcc.targets.fit.host.profiled import parts_of, profile
from lpcc.targets.fit.host.whole import networks

TARGET = Target.load("x86-avx512-vnni")
WORK = {"conv": 0.1, "pointwise": 0.15, "depthwise": 0.3, "gemm": 0.02, "transpose": 0.1, "concat": 0.05, "pool": 0.05}
TRUTH = Coefficients(
    {
        ("inference", "", "one"): 5000.0,
        ("view", "", "one"): 200.0,
        **{
            (kind, dtype, term): value
            for dtype in ("float32", "int8")
            for kind in (*MAC_KINDS, *ELEMENT_KINDS)
            for term, value in (("one", 600.0), (terms(kind, dtype)[4], WORK.get(kind, 0.05)))
        },
    }
)
"""A machine on which every kernel costs 600 ns and something for the first of its kind's own terms."""
KINDS = (
    "conv",
    "stem",
    "pointwise",
    "depthwise",
    "gemm",
    "add",
    "pool",
    "average",
    "concat",
    "convert",
    "tiny",
    "residual",
)
SOME = [probe for probe in probes(TARGET.int8) if probe.family.split()[1] in KINDS][::2]
APART = [probe for probe in networks(TARGET.int8) if probe.name.split()[1] in ("separable", "residual", "fires")]
TIMES = {probe.name: TRUTH.predict_ms(workload(probe.model, TARGET)) for probe in [*SOME, *APART]}


@pytest.fixture(autouse=True, scope="module")
def fewer() -> Iterator[None]:
    """Some of the probes and networks are enough to see that the fit works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "probes", lambda _int8: iter(SOME))
        patch.setattr(work, "networks", lambda _int8: iter(APART))
        yield


def measured(noise: float) -> dict[str, work.Measurement]:
    """Times of all probes and networks on a machine whose kernels cost what `TRUTH` says."""
    rng = np.random.default_rng(0)
    times = TIMES
    return {
        name: work.Measurement(value * float(np.exp(noise * rng.standard_normal()))) for name, value in times.items()
    }


@pytest.fixture(scope="module")
def done(fewer: None) -> work.Calibration:
    return work.calibrate(TARGET, measured(noise=0.03))


def test_learns_what_kernels_cost(done: work.Calibration) -> None:
    assert done.mean_error < 0.05
    for probe in SOME[::9]:
        load = workload(probe.model, TARGET)
        assert done.coefficients.predict_ms(load) == pytest.approx(TRUTH.predict_ms(load), rel=0.15)
    assert done.coefficients.values["inference", "", "one"] == pytest.approx(5000, rel=0.1)


def test_a_wrong_measurement_does_little() -> None:
    found = measured(noise=0.0)
    for name in list(found)[:120:20]:
        found[name] = work.Measurement(3 * found[name].milliseconds)
    assert work.calibrate(TARGET, found).mean_error < 0.06


def test_writes_a_target_that_predicts_the_same(done: work.Calibration, tmp_path: Path) -> None:
    layer = {"name": "host", "core": {"name": "a core", "cores": 2}, "memory": {"l2_kib": 1024}, "sources": {}}
    text, rows = work.files("my-box", "x86-avx512-vnni", layer, done, "my-box.csv")
    (tmp_path / "my-box.toml").write_text(text)
    (tmp_path / "my-box.csv").write_text(rows)
    target = Target.load(tmp_path / "my-box.toml")
    for probe in APART:
        graph = from_proto(probe.model)
        annotate(graph)
        wanted = done.coefficients.predict_ms(workload(probe.model, TARGET))
        assert CostModel(target).estimate(graph).latency_ms == pytest.approx(wanted, rel=0.02)
    assert re.search(r"measured on this machine on \d{4}-\d\d-\d\d with onnxruntime \d", target.description)
    assert target.quality.networks == len(done.judged)
    assert all(target.sources[key] for key in numbers_of({"overhead_us": {"inference": 1.0}, "physics": {}}))


def test_times_survive_a_file(tmp_path: Path) -> None:
    found = {"a": work.Measurement(1.5, {"conv": (2, 0.25)}), "b": work.Measurement(0.001)}
    path = tmp_path / "times.csv"
    path.write_text(work.times_csv(found))
    assert work.read_times(path) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no file of times"),
        ("model,ms\n", "no file of times"),
        ("model,part,kernels,milliseconds\na,conv,1,2\n", "damaged"),
        ("model,part,kernels,milliseconds\na,,,fast\n", "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        work.read_times(path)
    with pytest.raises(UsageError, match="cannot be read"):
        work.read_times(tmp_path / "missing.csv")


def test_times_of_another_version_are_refused() -> None:
    with pytest.raises(UsageError, match="is missing: these times are of another version"):
        work.calibrate(TARGET, {})


def test_probes_are_the_same_every_time() -> None:
    first, again = (next(islice(probes(Int8("u8")), 40, None)).model.SerializeToString() for _ in range(2))
    assert first == again


@pytest.mark.parametrize("word", ["float32", "int8"])
def test_probes_and_networks_run_and_their_kernels_are_known(word: str) -> None:
    unknown = 0
    some = [*list(probes(TARGET.int8))[::17], *networks(TARGET.int8)]
    for probe in (probe for probe in some if probe.name.startswith(word)):
        Session(probe.model).run(work.random_feeds(probe))
        unknown += any(kernel.kind == "other" for kernel in workload(probe.model, TARGET).kernels)
    assert unknown == 0


def test_the_profiler_sees_the_kernels_that_are_predicted() -> None:
    net = Net()
    x = net.conv(net.input(1, 16, 16, 16), 32, 3)
    probe = Probe("a net", net.model(net.op("GlobalAveragePool", x, shape=(1, 32, 1, 1))))
    found = profile(probe.model, work.random_feeds(probe))
    assert found["conv"][0] == found["pool"][0] == 1
    assert found["conv"][1] > 0
    load = workload(probe.model, TARGET)
    assert len(parts_of(load.kernels)["conv"]) == 1


def test_terms_that_matter_to_no_probe_are_dropped() -> None:
    net = Net()
    loads = []
    for size in (100, 1000, 10000):
        net = Net()
        loads.append(workload(net.model(net.op("Abs", net.input(1, size))), TARGET))
    found = fit([Sample(str(i), load, TRUTH.predict_ms(load)) for i, load in enumerate(loads)])
    assert {key[0] for key in found.values} <= {"elementwise", "inference"}
    assert all(value > 0 for value in found.values.values())

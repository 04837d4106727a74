"""From this machine to a target file: measure the probes, fit the kernels, judge them on networks apart, write."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from lpcc.errors import UsageError
from lpcc.runtime import Session
from lpcc.target import Int8, Target
from lpcc.targets.fit.host.fitting import Coefficients, Sample, fit, workload
from lpcc.targets.fit.host.probes import Probe, probes
from lpcc.targets.fit.host.profiled import parts_of, profile
from lpcc.targets.fit.host.target_file import rounded, table_csv, toml
from lpcc.targets.fit.host.timing import Gate, Plan, Progress, times
from lpcc.targets.fit.host.whole import networks

_COLUMNS = ["model", "part", "kernels", "milliseconds"]
_PROFILED = 0.15
"""Share of the time for runs under the profiler."""


@dataclass(frozen=True)
class Measurement:
    """Milliseconds of one run of a model; by part how many kernels run and how long, under the profiler."""

    milliseconds: float
    parts: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """A network that the fit did not see."""

    name: str
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True)
class Calibration:
    """What was learnt of this machine."""

    coefficients: Coefficients
    judged: tuple[Judged, ...]

    @property
    def mean_error(self) -> float:
        """Mean relative error of the networks that the fit did not see."""
        return mean(abs(one.error) for one in self.judged)

    @property
    def median_error(self) -> float:
        """Median of the same."""
        return median(abs(one.error) for one in self.judged)


def measure(
    int8: Int8 | None,
    minutes: float,
    progress: Progress = lambda _what, _done, _total: None,
    gate: Gate | None = None,
) -> dict[str, Measurement]:
    """Time all probes and networks on this machine, in about so many minutes if nobody disturbs.

    Raises:
        BusyError: somebody does, too much.
    """
    models = [*probes(int8), *networks(int8)]
    feeds = {probe.name: random_feeds(probe) for probe in models}
    runs = {}
    for done, probe in enumerate(models):
        runs[probe.name] = _runner(Session(probe.model), feeds[probe.name])
        progress("loading", done, len(models))
    found = times(runs, Plan.within((1 - _PROFILED) * minutes, len(models)), gate or Gate(), progress)
    parts = {}
    for done, probe in enumerate(models):
        parts[probe.name] = profile(probe.model, feeds[probe.name])
        progress("looking inside", done, len(models))
    return {name: Measurement(milliseconds, parts[name]) for name, milliseconds in found.items()}


def calibrate(target: Target, found: Mapping[str, Measurement]) -> Calibration:
    """Fit the kernels of `target`'s runtime to measurements of this machine, and judge them on networks apart.

    Raises:
        UsageError: a measurement is missing.
    """
    samples = [sample for probe in probes(target.int8) for sample in _samples(probe, _of(found, probe), target)]
    coefficients = fit(samples)
    judged = tuple(
        Judged(
            probe.name,
            _of(found, probe).milliseconds,
            coefficients.predict_ms(workload(probe.model, target)),
        )
        for probe in networks(target.int8)
    )
    return Calibration(coefficients, judged)


def files(name: str, base: str, layer: Mapping[str, Any], done: Calibration, table: str) -> tuple[str, str]:
    """Texts of a target file that extends `base` by the `layer` known of this machine, and of its kernel `table`."""
    how = source()
    micros = {key[0]: rounded(value / 1e3) for key, value in done.coefficients.values.items() if not key[1]}
    plain = done.coefficients.values.get(("elementwise", "float32", "one"), 0.0)
    tables = {
        "name": name,
        "extends": base,
        "description": f"{layer['core']['name']}, {how}",
        **{key: value for key, value in layer.items() if key in ("isa", "core", "memory")},
        "overhead_us": {
            "kernel": rounded(plain / 1e3),
            "view": micros.get("view", 0.0),
            "inference": micros.get("inference", 0.0),
        },
        "physics": {
            "measured_ghz": layer["core"].get("clock_ghz") or Target.load(base).core.clock_ghz,
            "weight_ns_per_byte": rounded(done.coefficients.values.get(("weights", "", "cold"), 0.0)),
        },
        "tables": {"kernels": table},
        "quality": {
            "compared_with": f"networks built in code, float and int8, which the fit did not see, {how}; "
            f"mean error {100 * done.mean_error:.1f} %",
            "networks": len(done.judged),
            "median_error_percent": round(100 * done.median_error, 1),
        },
        "sources": {**layer["sources"], "overhead_us": how, "physics": how},
    }
    return toml(tables), table_csv(done.coefficients, f"Nanoseconds of onnxruntime's kernels, {how}.")


def source() -> str:
    """Where numbers measured now are from."""
    import onnxruntime

    return f"measured on this machine on {date.today().isoformat()} with onnxruntime {onnxruntime.__version__}"


def times_csv(found: Mapping[str, Measurement]) -> str:
    """Measurements as a file, to fit anew without measuring anew."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for name, one in found.items():
        writer.writerow([name, "", "", f"{one.milliseconds:.6g}"])
        writer.writerows([name, part, count, f"{value:.6g}"] for part, (count, value) in one.parts.items())
    return out.getvalue()


def read_times(path: Path) -> dict[str, Measurement]:
    """Measurements in a file that `times_csv` wrote. Raises UsageError where it is none of those."""
    try:
        return parse_times(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text") from None


def parse_times(text: str, path: Path) -> dict[str, Measurement]:
    """Measurements as `times_csv` writes them, from the file `path`. Raises UsageError where the text is none."""
    try:
        rows = list(csv.reader(text.splitlines()))
        if not rows or rows[0] != _COLUMNS:
            raise UsageError(f"{path}: is no file of times that `lpcc targets measure` wrote: expected {_COLUMNS}")
        found: dict[str, Measurement] = {}
        for name, part, count, value in rows[1:]:
            if part:
                one = found[name]
                found[name] = replace(one, parts={**one.parts, part: (int(count), float(value))})
            else:
                found[name] = Measurement(float(value))
    except (ValueError, KeyError):
        raise UsageError(f"{path}: is damaged: measure anew without it") from None
    return found


def random_feeds(probe: Probe) -> dict[str, np.ndarray]:
    """Normal random inputs, the same for the same model."""
    rng = np.random.default_rng(0)
    return {
        value.name: rng.standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim], np.float32)
        for value in probe.model.graph.input
    }


def _runner(session: Session, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    return lambda: session.raw.run(None, feeds)


def _of(found: Mapping[str, Measurement], probe: Probe) -> Measurement:
    if probe.name not in found:
        raise UsageError(f"the time of `{probe.name}` is missing: these times are of another version; measure anew")
    return found[probe.name]


def _samples(probe: Probe, found: Measurement, target: Target) -> Sequence[Sample]:
    """The whole run, and those parts of it in which as many kernels run as predicted."""
    work = workload(probe.model, target)
    parts = parts_of(work.kernels)
    return [
        Sample(probe.name, work, found.milliseconds),
        *(
            Sample(f"{probe.name}: {part}", replace(work, kernels=parts[part]), milliseconds, profiled=True)
            for part, (count, milliseconds) in found.parts.items()
            if len(parts.get(part, ())) == count and milliseconds > 0
        ),
    ]

"""Does a target that was measured on this machine predict real networks on it, in float and int8?"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from types import ModuleType

import numpy as np
import onnx

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.graph import load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.target import Target
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.host.fitting import workload
from lpcc.targets.fit.host.measure import Calibration, Judged, Measurement, calibrate, measure
from lpcc.targets.fit.host.timing import Gate, Plan, times

_MINUTES = float(os.environ.get("LPCC_MEASURE_MINUTES", "4"))
_PLAN = Plan(visits=15, visit_ms=120.0, least_runs=5)
_FORMS = {"float": "exact", "int8": "exact,quantize{ranges=minmax}"}
_IMAGES = 4
"""To calibrate with: speed does not depend on the values."""
_MEAN = 0.15
_APART = 0.15
"""Relative difference of two times from which their order must be right."""


def checks(truth: Path) -> list[Check]:
    """Measure this machine, fit, and compare predictions with times of the networks in the zoo beside `truth`."""
    done, judged = compare(truth)
    wrong = wrong_signs(judged)
    far = sorted(judged, key=lambda one: -abs(one.error))[:3]
    pairs = [pair for pair in combinations(judged, 2) if apart(*pair)]
    return [
        Check(
            "this machine, networks of the zoo: mean error",
            f"{100 * _MEAN:.0f} %",
            f"{100 * mean(abs(one.error) for one in judged):.1f} %",
            mean(abs(one.error) for one in judged) <= _MEAN,
            f"{len(judged)} networks, float and int8, none in the fit; worst: "
            + ", ".join(f"{one.name} {100 * one.error:+.0f} %" for one in far),
        ),
        Check(
            "this machine: order of two networks that differ by more than 15 %",
            "never wrong",
            f"{len(wrong)} of {len(pairs)} wrong",
            not wrong,
            "; ".join(f"{a.name} and {b.name}" for a, b in wrong[:4]),
        ),
        Check(
            "this machine, networks built in code: mean error",
            f"{100 * _MEAN:.0f} %",
            f"{100 * done.mean_error:.1f} %",
            done.mean_error <= _MEAN,
            f"{len(done.judged)} networks, float and int8, none in the fit",
        ),
    ]


def points(truth: Path) -> list[Points]:
    """Predictions beside measurements."""
    _, judged = compare(truth)
    names, measured, predicted = zip(*((one.name, one.measured_ms, one.predicted_ms) for one in judged), strict=True)
    return [Points("host", "latency, ms", names, measured, predicted)]


def compare(truth: Path, found: Mapping[str, Measurement] | None = None) -> tuple[Calibration, tuple[Judged, ...]]:
    """The calibration of this machine, and the zoo's networks as measured and as predicted by it.

    `found` are measurements of the probes made before; without them they are made now, which takes minutes.

    Raises:
        BusyError: the machine does other work.
        UsageError: there is no zoo.
    """
    target = Target.load("host")
    models = dict(zoo_models(truth, target))
    runs = {}
    for name, (model, feeds) in models.items():
        session = Session(model).raw
        runs[name] = lambda session=session, feeds=feeds: session.run(None, feeds)
    done = calibrate(target, measure(target.int8, _MINUTES) if found is None else found)
    milliseconds = times(runs, _PLAN, Gate())
    judged = tuple(
        Judged(name, milliseconds[name], done.coefficients.predict_ms(workload(model, target, feeds)))
        for name, (model, feeds) in models.items()
    )
    return done, judged


def apart(a: Judged, b: Judged) -> bool:
    """Whether two networks differ by so much that their order must be predicted."""
    return max(a.measured_ms, b.measured_ms) > (1 + _APART) * min(a.measured_ms, b.measured_ms)


def wrong_signs(judged: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    """Pairs of networks that differ clearly and whose order is predicted wrongly."""
    return [
        (a, b)
        for a, b in combinations(judged, 2)
        if apart(a, b) and (a.measured_ms - b.measured_ms) * (a.predicted_ms - b.predicted_ms) < 0
    ]


def zoo_models(truth: Path, target: Target) -> list[tuple[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]]]:
    """The zoo's networks as lpcc writes them for a target, in float and int8, each with one image."""
    zoo = _zoo(Path(os.environ.get("LPCC_ZOO") or truth.parent / "zoo"))
    found = []
    for name in zoo.ENTRIES:
        images, _ = zoo.feeds(name, "calib", _IMAGES)
        for form, text in _FORMS.items():
            graph = load(Path(zoo.ROOT) / "models" / f"{name}.onnx")
            ctx = Context(seed=0)
            ctx.target = target
            ctx.calibration = Dataset.from_arrays(images).serving(Session(to_proto(graph)).inputs)
            run_pipeline(graph, Pipeline.parse(text), ctx)
            found.append((f"{name} {form}", (to_proto(graph), {key: values[:1] for key, values in images.items()})))
    return found


def _zoo(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_of_models", root / "zoo.py")
    if spec is None or spec.loader is None or not (root / "zoo.py").is_file():
        raise UsageError(f"no model zoo at {root}: set LPCC_ZOO to its folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

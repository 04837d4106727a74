"""Adapting a target to a board, from a table of networks that were measured on it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from lpcc.analysis.types import annotate
from lpcc.cost import Cost, CostModel
from lpcc.errors import ModelError, UsageError
from lpcc.graph import load
from lpcc.target import Target
from lpcc.targets.fit.adapt import Adaptation, adapt, groups_of, leave_one_out
from lpcc.targets.fit.host.target_file import rounded, toml

LEAST = 5
"""Networks: with fewer nothing can be said of those that were not measured."""
_FAR = 6.0
"""Ratio to what the other networks suggest from which a measurement is taken for a mistake."""
_STRANGE = 100.0
"""Ratio to the predictions from which all of them are."""


@dataclass(frozen=True)
class Row:
    """A measured network: its file, milliseconds of one inference, and millijoules where they were measured."""

    model: Path
    milliseconds: float
    millijoules: float | None = None


@dataclass(frozen=True)
class Fitted:
    """A target adapted to a board. Errors are relative ones, of each network in `rows`."""

    rows: tuple[Row, ...]
    adaptation: Adaptation
    watts: float | None
    before: tuple[float, ...]
    after: tuple[float, ...]
    """Each network predicted by what the others teach."""

    @property
    def mean_before(self) -> float:
        """Mean error of the target as it was."""
        return mean(map(abs, self.before))

    @property
    def mean_after(self) -> float:
        """Mean error after the adaptation."""
        return mean(map(abs, self.after))

    @property
    def improves(self) -> bool:
        """Whether the adapted target predicts networks that it has not seen better than it did before."""
        return self.mean_after < self.mean_before


def read(path: Path) -> tuple[Row, ...]:
    """The measurements in a CSV file with the columns ``model``, ``milliseconds`` and perhaps ``millijoules``.

    Models are named relative to that file, or to the current folder. ``#`` starts a comment line.

    Raises:
        UsageError: the file cannot be read, lacks a column or has fewer than 5 rows, or a number is none above 0.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read the measurements: {getattr(error, 'strerror', None) or error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise UsageError(f"{path}: is empty; expected the columns model,milliseconds")
    columns = [cell.strip() for cell in next(csv.reader([numbered[0][1]]))]
    for wanted in ("model", "milliseconds"):
        if wanted not in columns:
            raise UsageError(f"{path}: column `{wanted}` is missing; expected model,milliseconds[,millijoules]")
    rows = []
    seen: dict[str, int] = {}
    for number, line in numbered[1:]:
        texts = [cell.strip() for cell in next(csv.reader([line]))]
        where = f"{path}:{number}"
        if len(texts) > len(columns):
            raise UsageError(f"{where}: {len(texts)} cells in {len(columns)} columns; a decimal comma, perhaps?")
        cells = dict(zip(columns, texts, strict=False))
        model = cells.get("model", "")
        if model in seen:  # a network cannot be predicted without itself
            raise UsageError(f"{where}: `{model}` was measured in line {seen[model]} already; give their median")
        seen[model] = number
        energy = cells.get("millijoules")
        rows.append(
            Row(
                _model(path, model, where),
                _positive(cells.get("milliseconds", ""), f"{where}: milliseconds"),
                _positive(energy, f"{where}: millijoules") if energy else None,
            )
        )
    if len(rows) < LEAST:
        raise UsageError(f"{path}: {len(rows)} networks are too few; at least {LEAST} are needed")
    return tuple(rows)


def fit(target: Target, rows: Sequence[Row], sizes: Mapping[str, int] | None = None) -> Fitted:
    """Adapt `target` to measured networks; `sizes` gives values to open dimensions.

    Raises:
        UsageError: the target is no processor, or a measurement cannot be of this target.
        ModelError: a model is refused.
    """
    if target.kind not in ("cpu", "mcu", "gpu"):
        kind = f"target `{target.name}` is of kind `{target.kind}`"
        raise UsageError(f"{kind}, whose own model prices it: nothing to adapt")
    costs = [_cost(target, row, sizes) for row in rows]
    _check_plausible(target, rows, costs)
    groups = [groups_of(cost) for cost in costs]
    measured = [row.milliseconds for row in rows]
    powers = [row.millijoules / row.milliseconds for row in rows if row.millijoules is not None]
    return Fitted(
        tuple(rows),
        adapt(groups, measured),
        math.exp(mean(map(math.log, powers))) if powers else None,
        tuple(cost.latency_ms / time - 1 for cost, time in zip(costs, measured, strict=True)),
        tuple(leave_one_out(groups, measured)),
    )


def target_file(name: str, base: str, target: Target, fitted: Fitted, measurements: str) -> str:
    """The text of a target file that extends `base`, which is `target`, by what was fitted to `measurements`."""
    found = fitted.adaptation
    old = target.physics
    factors = {kind: rounded(old.factors.get(kind, 1.0) * value) for kind, value in found.by_kind().items()}
    source = f"fitted to {len(fitted.rows)} networks measured on the board, {measurements}"
    tables: dict[str, Any] = {
        "name": name,
        "extends": base,
        "description": f"{target.description}; adapted to {len(fitted.rows)} measured networks",
        "physics": {"scale": rounded(old.scale * found.scale), **({"factors": factors} if factors else {})},
    }
    overhead = target.overhead_us  # of these two, which no factor of the kernels covers
    calls = {"view": found.scale * overhead.view, "inference": found.scale * overhead.inference}
    calls["inference"] += 1e3 * found.constant_ms
    tables["overhead_us"] = {key: rounded(value) for key, value in calls.items()}
    if fitted.watts is not None:
        tables["energy"] = {"active_watts": rounded(fitted.watts)}
    tables["quality"] = {
        "compared_with": f"networks measured on the board, each predicted by a fit to the others; mean error "
        f"{100 * fitted.mean_after:.1f} %, before {100 * fitted.mean_before:.1f} %",
        "networks": len(fitted.rows),
        "median_error_percent": round(100 * median(map(abs, fitted.after)), 1),
    }
    stated = {"physics": "physics", "overhead_us": "overhead_us", "energy": "energy.active_watts"}
    tables["sources"] = {path: source for key, path in stated.items() if key in tables}
    return toml(tables)


def _cost(target: Target, row: Row, sizes: Mapping[str, int] | None) -> Cost:
    try:
        graph = load(row.model)
    except ModelError as error:
        text = str(error)
        raise ModelError(text if str(row.model) in text else f"{row.model}: {text}") from error
    annotate(graph)
    return CostModel(target).estimate(graph, sizes)


def _check_plausible(target: Target, rows: Sequence[Row], costs: Sequence[Cost]) -> None:
    ratios = np.array([row.milliseconds / cost.latency_ms for row, cost in zip(rows, costs, strict=True)])
    typical = float(np.median(ratios))
    if not 1 / _STRANGE < typical < _STRANGE:
        raise UsageError(
            f"measured times are {plain(typical)} times those predicted for `{target.name}`: "
            "are they milliseconds, of one inference, on such a device?"
        )
    for row, cost, ratio in zip(rows, costs, ratios, strict=True):
        if not 1 / _FAR < ratio / typical < _FAR:
            raise UsageError(
                f"{row.model}: measured {row.milliseconds:g} ms, where the other networks suggest "
                f"{plain(typical * cost.latency_ms)} ms: is it that model, of that size (--dim), in milliseconds?"
            )


def _model(path: Path, name: str, where: str) -> Path:
    if not name:
        raise UsageError(f"{where}: names no model")
    beside = path.parent / name
    return beside if beside.exists() or Path(name).is_absolute() else Path(name)


def plain(value: float) -> str:
    """Three digits of a number, never as a power of ten."""
    return f"{value:.0f}" if value >= 100 else np.format_float_positional(float(f"{value:.3g}"), trim="-")


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{where} = `{text}` is not a number above 0")
    return value

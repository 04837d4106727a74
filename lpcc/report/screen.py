"""The report of an optimisation on a terminal, in one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from lpcc.report import units
from lpcc.report.chart import bar
from lpcc.report.model import Figures, Quality, Report
from lpcc.report.table import Column, table

Line = str | tuple[str, str]
"""A line of text, or one with a rich style."""

_BESIDE = 24
"""Columns that a table of passes takes beside the name of a pass and what it did."""
_REFUSED = 5
"""Nodes that are named for each reason of a refusal, with details."""

_BAR = 8
"""Columns of a bar."""

_REASONS = 8
"""Reasons of the verdict that are listed."""

_DATA = {"real": "", "synthetic": " made-up", "none": ""}


def screen(report: Report, width: int, *, verbose: bool = False) -> Iterator[Line]:
    """Lines of the report, none wider than `width` where that can be; with `verbose`, refusals and layers too."""
    arrow = f" -> {report.output}" if report.output else ""
    yield (f"{report.model}{arrow}", "bold")
    how = f"target {report.target}, pipeline {report.pipeline}, seed {report.seed}, {units.digits(report.seconds)} s"
    yield from _wrapped(how, width)
    yield ""
    yield from _figures(report.before, report.after, "measured" if report.verdict.measured else "predicted", width)
    yield ""
    if report.quality.metric is not None:
        yield from _wrapped(_quality(report.quality), width)
        yield ""
    yield from _worst(report, width)
    yield from _passes(report, width, verbose=verbose)
    if verbose:
        yield from _refusals(report, width)
        yield from _layers(report, width)
    yield ""
    yield from _verdict(report, width)


def _figures(before: Figures, after: Figures, how: str, width: int) -> Iterator[Line]:
    rows = [
        ("nodes", units.count, before.nodes, after.nodes),
        ("parameters", units.count, before.parameters, after.parameters),
        ("MACs", units.count, before.macs, after.macs),
        ("weights", units.size, before.weight_bytes, after.weight_bytes),
        ("file", units.size, before.file_bytes, after.file_bytes),
        ("peak of activations", units.size, before.peak_activation_bytes, after.peak_activation_bytes),
    ]
    cells = [[name, text(old), text(new), units.change(old, new)] for name, text, old, new in rows]
    if after.bits_per_weight is not None:
        cells.insert(4, _timed("bits per weight", units.number, before.bits_per_weight, after.bits_per_weight))
    cells.append(_timed(f"latency ({how})", units.ms, before.latency_ms, after.latency_ms))
    cells.append(_timed("energy (predicted)", units.mj, before.energy_mj, after.energy_mj))
    columns = [Column("", elastic=True), *(Column(title, right=True) for title in ("before", "after", "change"))]
    title, *body = table(columns, cells, width)
    yield (title, "bold")
    yield from body
    if after.bytes_by_type and after.bytes_by_type != before.bytes_by_type:
        types = ", ".join(f"{name} {units.size(size)}" for name, size in after.bytes_by_type.items())
        yield from _wrapped(f"weights by type: {types}", width)


def _timed(name: str, text: units.Text, before: float | None, after: float | None) -> list[str]:
    return [name, text(before), text(after), units.change(before, after)]


def _quality(quality: Quality) -> str:
    accuracy = quality.metric in ("top1", "top5", "agreement")
    text = units.percent if accuracy else units.number
    parts = []
    if quality.before is not None and quality.after is not None and quality.drop is not None:
        limit = "" if quality.max_drop is None else f" of at most {quality.max_drop:g}"
        drop = f"{quality.drop:.2f}{limit} points" if accuracy else f"{units.number(quality.drop)}{limit}"
        parts.append(f"{quality.metric} {text(quality.before)} -> {text(quality.after)} (drop {drop})")
    if quality.agreement is not None:
        floor = "" if quality.min_agreement is None else f" (at least {quality.min_agreement:g})"
        parts.append(f"agreement {units.percent(quality.agreement)}{floor}")
    if quality.sqnr_db is not None:
        floor = "" if quality.min_sqnr is None else f" (at least {quality.min_sqnr:g})"
        parts.append(f"SQNR {units.decibels(quality.sqnr_db)}{floor}")
    where = f"on {quality.samples}{_DATA[quality.data]} sample{'' if quality.samples == 1 else 's'}"
    if quality.emulated is not None:
        where += f", as {quality.emulated} computes"
    return f"quality {where}: {', '.join(parts) or 'outputs are equal'}"


def _passes(report: Report, width: int, *, verbose: bool) -> Iterator[Line]:
    rows = []
    idle: dict[str, int] = {}  # passes that changed nothing, with the number of places that they refused
    for item in report.passes:
        refused = len(item.refused)
        if not item.counts:
            idle[item.name] = idle.get(item.name, 0) + refused
            continue
        kinds = [f"{count} {what}" for what, count in item.counts.items()]
        if item.taken_back:
            kinds = [f"taken back: {kinds[0]}", *kinds[1:]]
        if not verbose:
            kinds = [_shortened(kinds, width - len(item.name) - _BESIDE)]
        rows.append([item.name, kinds[0], str(refused or ""), f"{item.seconds:.2f} s"])
        rows += [["", kind, "", ""] for kind in kinds[1:]]
    if rows:
        columns = [
            Column("pass"),
            Column("did", elastic=True),
            Column("refused", right=True),
            Column("time", right=True, drop=1),
        ]
        title, *body = table(columns, rows, width)
        yield (title, "bold")
        yield from body
    if idle:
        names = [f"{name} ({refused} refused)" if refused else name for name, refused in idle.items()]
        yield from _wrapped(f"nothing to do for {', '.join(names)}", width)


def _worst(report: Report, width: int) -> Iterator[Line]:
    """The layers that add most to the noise, with a bar each, why they do, and what could be done."""
    if not report.worst:
        return
    top = max(layer.damage_db or 0.0 for layer in report.worst)
    columns = [
        Column("layers that add most noise", elastic=True, tail=True),
        Column("SQNR", right=True),
        Column("adds", drop=1),
        Column("as", elastic=True),
    ]
    rows = [
        [layer.name, units.decibels(layer.sqnr_db), _adds(layer.damage_db, top), layer.detail] for layer in report.worst
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    for line, layer in zip(body, report.worst, strict=True):
        yield line
        yield from _wrapped(f"  -> {layer.remedy}", width)
    yield ""


def _adds(damage: float | None, top: float) -> str:
    """What a layer adds to the noise, in dB behind a bar."""
    if damage is None or damage <= 0 or top <= 0:
        return ""
    return f"{bar(damage / top, _BAR).ljust(_BAR)} {units.decibels(damage)}"


def _shortened(kinds: list[str], room: int) -> str:
    """As many `kinds` of rewrites, but at least one, as fit into `room`, and the number of the others."""
    for shown in range(len(kinds), 0, -1):
        more = [f"{len(kinds) - shown} kinds more"] if shown < len(kinds) else []
        text = ", ".join(kinds[:shown] + more)
        if len(text) <= room:
            break
    return text


def _refusals(report: Report, width: int) -> Iterator[Line]:
    for item in report.passes:
        by_reason: dict[str, list[str]] = {}
        for refusal in item.refused:
            by_reason.setdefault(refusal.reason, []).append(refusal.node)
        if by_reason:
            yield ""
            yield (f"left alone by {item.name}", "bold")
        for reason, nodes in by_reason.items():
            more = f" and {len(nodes) - _REFUSED} more" if len(nodes) > _REFUSED else ""
            yield from _wrapped(f"  {reason}: {', '.join(nodes[:_REFUSED])}{more}", width)


def _layers(report: Report, width: int) -> Iterator[Line]:
    if not report.layers:
        return
    columns = [
        Column("layer", elastic=True, tail=True),
        Column("op", elastic=True),
        Column("type"),
        Column("MACs", right=True, drop=3),
        Column("before", right=True, drop=2),
        Column("after", right=True),
        Column("SQNR", right=True),
        Column("adds", drop=1),
        Column("note", elastic=True),
    ]
    top = max((layer.damage_db or 0.0 for layer in report.layers), default=0.0)
    rows = [
        [
            layer.name,
            layer.op,
            _arrow(layer.dtype_before, layer.dtype_after),
            units.count(layer.macs) if layer.macs else "",
            units.ms(layer.latency_ms_before),
            units.ms(layer.latency_ms_after),
            "" if layer.sqnr_db is None else units.decibels(layer.sqnr_db),
            _adds(layer.damage_db, top),
            layer.note,
        ]
        for layer in report.layers
    ]
    title, *body = table(columns, rows, width)
    yield ""
    yield (title, "bold")
    yield from body


def _arrow(before: str | None, after: str | None) -> str:
    if before is None or after is None or before == after:
        return after or before or ""
    return f"{before} -> {after}"


def _verdict(report: Report, width: int) -> Iterator[Line]:
    verdict = report.verdict
    kept = {
        "optimised": "the optimised model",
        "partly": "the optimised model, part of it taken back",
        "original": "the original model",
    }[verdict.kept]
    speed = ""
    if verdict.speedup is not None:
        how = "measured" if verdict.measured else "predicted"
        speed = f", {verdict.speedup:.2f}x as fast ({how})"
    style = "green" if verdict.kept == "optimised" else "yellow"
    missed = ""
    if not verdict.met_budget:
        style, missed = "bold red", "; the budget is NOT met by what was asked for"
    yield from ((line, style) for line in _wrapped(f"result: {kept}{speed}{missed}", width))
    for reason in verdict.reasons[:_REASONS]:
        yield from _wrapped(f"  {reason}", width)
    if len(verdict.reasons) > _REASONS:
        yield f"  and {len(verdict.reasons) - _REASONS} more (--json has all)"
    for note in report.notes:
        yield from _wrapped(f"note: {note}", width)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`; the second and later ones are indented further than the first."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

"""``lpcc inspect``: what a model costs on a target, layer by layer."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.cost import Cost
    from lpcc.pipeline.verdict import Verdict
    from lpcc.report import Figures
    from lpcc.target import Target

_NAMED = 3
"""Tensors of the peak that are named."""


def inspect(
    model: options.Model,
    target: options.TargetName = "host",
    dim: options.Sizes = None,
    groups: options.Groups = False,
    factorize: Annotated[
        bool, typer.Option("--factorize", help="Say what each layer could become in factors, and what that gains.")
    ] = False,
    error: Annotated[
        float | None,
        typer.Option("--error", show_default="0.05", help="With --factorize: share that a layer may lose."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="LIST",
            show_default="bmd,svd",
            help="With --factorize: bmd, svd, tucker2, cpd, cpd-separable.",
        ),
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(
            "--calib", metavar="DATA", show_default=False, help="With --factorize: images, so that outputs count."
        ),
    ] = None,
    preprocess: options.Preprocessing = None,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Say what a model costs on a target, layer by layer.

    MACs, bytes, predicted time and energy, and what the time comes from most: compute, memory or overhead; memory
    over time, its peak, and whether the target's memories suffice. For a float model also how many times faster (above
    1) or slower (below) each layer and the whole would run there in int8.
    A layer is what the target's runtime runs as one kernel: a convolution with the activation that it takes in.
    `--groups` adds which channels can only be removed together, and why some cannot be removed at all. `--factorize`
    adds the method and the rank at which each layer gets fastest in factors, what it loses, and why others stay whole.
    """
    sizes = options.sizes(dim)
    terminal = Terminal(quiet, json)
    terminal.check_json(model, preprocess, None if calib is None else Path(calib))

    from lpcc.cli.factors import factor_lines, factors_to_plain, wish

    asked = wish(factorize, method, error, calib, preprocess)

    from lpcc.analysis.types import annotate
    from lpcc.cli.feeds import check_sizes
    from lpcc.cli.groups import group_lines, groups_of, groups_to_plain
    from lpcc.cost import CostModel
    from lpcc.graph import load
    from lpcc.pipeline.verdict import int8_verdict
    from lpcc.report.figures import figures_of, stored_bytes
    from lpcc.report.plain import to_plain
    from lpcc.runtime import TensorSpec
    from lpcc.target import Target

    device = Target.load(target)
    graph = load(model)
    check_sizes(sizes, [TensorSpec(t.name, t.dtype, _declared(t)) for t in graph.inputs])
    annotate(graph)
    cost = CostModel(device).estimate(graph, sizes)
    total = figures_of(graph, cost, stored_bytes(model, cost.weight_bytes))
    verdict = int8_verdict(graph, device, sizes)
    found = groups_of(graph) if groups else None
    factors = None if asked is None else (asked, asked.found(graph, device, sizes, terminal))
    terminal.write_json(
        {
            "model": str(model),
            "target": device.name,
            "total": to_plain(total),
            "layers": to_plain(cost.layers),
            "peak_layer": cost.peak_layer,
            "memory": _memory(cost),
            "int8": None if verdict is None else {**to_plain(verdict), "speedup": verdict.speedup},
            "notes": [*cost.assumptions, *cost.warnings],
            **({} if found is None else {"groups": groups_to_plain(found)}),
            **({} if factors is None else {"factorize": factors_to_plain(*factors)}),
        }
    )
    terminal.show(_lines(str(model), device, cost, total, verdict, terminal.width))
    if found is not None:
        terminal.show(group_lines(found, terminal.width))
    if factors is not None:
        terminal.show(factor_lines(*factors, terminal.width))


def _declared(tensor: gs.Variable) -> tuple[int | str | None, ...] | None:
    """Declared shape of a graph input; Paddle writes an open dimension as -1."""
    if tensor.shape is None:
        return None
    return tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in tensor.shape)


def _lines(
    model: str, target: Target, cost: Cost, total: Figures, verdict: Verdict | None, width: int
) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units
    from lpcc.report.table import Column, table

    columns = [
        Column("layer", elastic=True, tail=True),
        Column("op", elastic=True),
        Column("type"),
        Column("output", drop=1),
        Column("MACs", right=True),
        Column("params", right=True, drop=2),
        Column("moved", right=True, drop=3),
        Column("time", right=True),
        Column("energy", right=True, drop=4),
        Column("bound", drop=5),
        *([Column("int8", right=True, drop=6)] if verdict else []),
    ]
    gains = verdict.layers if verdict else {}
    rows = [
        [
            layer.name,
            layer.op,
            layer.dtype,
            "x".join(map(str, layer.outputs[0])) if layer.outputs else "",
            units.count(layer.macs) if layer.macs else "",
            units.count(layer.parameters) if layer.parameters else "",
            units.size(layer.bytes_moved),
            units.ms(layer.latency_ms),
            units.mj(layer.energy_mj),
            layer.bound,
            *([f"{gains[layer.name]:.1f}x" if layer.name in gains else ""] if verdict else []),
        ]
        for layer in cost.layers
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body
    yield ""
    yield (f"{model} on {target.name}", "bold")
    yield (
        f"{units.count(total.nodes)} nodes, {units.count(total.parameters)} parameters, "
        f"{units.count(total.macs)} MACs, "
        f"{units.size(total.weight_bytes)} of weights, file {units.size(total.file_bytes)}"
    )
    yield f"predicted: {units.ms(total.latency_ms)}, {units.mj(total.energy_mj)} per run"
    if verdict is not None:
        change = f"{units.ms(verdict.float_ms)} to {units.ms(verdict.int8_ms)}, both after the exact passes"
        yield from textwrap.wrap(f"predicted: {verdict} ({change})", width, subsequent_indent="  ")
    yield from _chart(cost, width)
    for text in (_peak(cost), _use(target, cost)):
        yield from textwrap.wrap(text, width, subsequent_indent="  ")
    for text in cost.warnings:
        yield from ((line, "yellow") for line in textwrap.wrap(f"warning: {text}", width, subsequent_indent="  "))
    if cost.warnings and verdict is not None and not verdict.int8_warnings:
        yield "note: in int8 it fits"
    for text in (*_order(cost), *cost.assumptions, _trust(target)):
        yield from textwrap.wrap(f"note: {text}", width, subsequent_indent="  ")


def _memory(cost: Cost) -> dict[str, Any]:
    """The keys of `memory` in the JSON form."""
    return {
        "peak_bytes": cost.peak_activation_bytes,
        "peak_tensors": [{"name": name, "bytes": size} for name, size in cost.peak_tensors],
        "best_peak_bytes": cost.best_peak_bytes,
        "least_peak_bytes": cost.least_peak_bytes,
        "arena_bytes": cost.arena_bytes,
        "ram_bytes": cost.ram_bytes,
        "flash_bytes": cost.flash_bytes,
        "series": [{"layer": name, "bytes": alive} for name, alive in cost.memory],
    }


def _chart(cost: Cost, width: int) -> Iterator[str]:
    """Memory over time: a column for each kernel, or for several where they are too many."""
    from lpcc.report import units
    from lpcc.report.chart import chart

    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return
    top = units.size(cost.peak_activation_bytes)
    for row, line in enumerate(chart([alive for _, alive in cost.memory], width - len(top) - 1)):
        yield f"{top if row == 0 else '':{len(top)}} {line}".rstrip()


def _peak(cost: Cost) -> str:
    from lpcc.report import units

    held = [f"{name} {units.size(size)}" for name, size in cost.peak_tensors[:_NAMED]]
    more = len(cost.peak_tensors) - _NAMED
    named = ", ".join([*held, f"{more} more"] if more > 0 else held)
    return f"peak of activations: {units.size(cost.peak_activation_bytes)} at {cost.peak_layer} ({named})"


def _use(target: Target, cost: Cost) -> str:
    """Use of the target's memories, of which a microcontroller has only so much."""
    from lpcc.report import units

    memory = target.memory

    def of(used: int, limit: int | None) -> str:
        return units.size(used) if limit is None else f"{units.size(used)} of {units.size(limit * 1024)}"

    flash = "" if memory.flash_kib is None else f", flash {of(cost.flash_bytes, memory.flash_kib)} for weights and code"
    weights = "" if flash or target.kind == "mcu" else " with the weights"
    ram = of(cost.ram_bytes, memory.sram_kib)
    return f"arena of activations: {units.size(cost.arena_bytes)}; RAM {ram}{weights}{flash}"


def _order(cost: Cost) -> Iterator[str]:
    """What another order of execution would gain."""
    from lpcc.report import units

    now, best = cost.peak_activation_bytes, cost.best_peak_bytes
    if best < now:
        yield (
            f"another order of execution needs {100 * (now - best) / now:.0f} % less: {units.size(best)} in place of "
            f"{units.size(now)} (pass `schedule`)"
        )


def _trust(target: Target) -> str:
    """How far the target's predictions can be trusted."""
    quality = target.quality
    if quality.median_error_percent is None:
        return f"predictions are estimates: {quality.compared_with}"
    return (
        f"predictions are estimates: median error {quality.median_error_percent:g} % "
        f"on {quality.networks} networks ({quality.compared_with})"
    )

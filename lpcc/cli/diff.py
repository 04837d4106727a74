"""``lpcc diff``: how two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.diff import OutputDifference, Parts, Structure

_SAMPLES = 16
_SHOWN = 10
"""Names of each kind, without ``-v``."""


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="ONNX file.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="ONNX file.", show_default=False)],
    data: options.DataSpec = None,
    preprocess: options.Preprocessing = None,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, show_default="16", help="Samples of the data to compare on.")
    ] = None,
    dim: options.Sizes = None,
    emulate: options.Emulate = None,
    seed: options.Seed = 0,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Say how two models differ, in structure and in numbers.

    Numbers are compared on the given data, else on random inputs, without onnxruntime's own optimisations; with
    --emulate B's are those that the integer kernels of another processor give. Differences are no failure: the exit
    code is 0.
    """
    sizes = options.sizes(dim)
    options.check_data(data, dim, preprocess=preprocess, samples=samples)
    terminal = Terminal(quiet, json)
    terminal.check_json(a, b)

    from lpcc import diff as differences
    from lpcc.cli.feeds import data_feeds, random_feeds
    from lpcc.errors import ModelError
    from lpcc.graph import load, to_proto
    from lpcc.report.plain import to_plain
    from lpcc.simulate import kernels_named

    kernels = None if emulate is None else kernels_named(emulate)
    graph_a, graph_b = load(a), load(b)
    structure = differences.structure(graph_a, graph_b)
    model_a = to_proto(graph_a)
    feeds = data_feeds(model_a, data, preprocess, samples or _SAMPLES) if data else [random_feeds(model_a, sizes, seed)]
    outputs: Sequence[OutputDifference] = ()
    problem = None
    try:
        outputs = differences.numbers(model_a, to_proto(graph_b), feeds, kernels)
    except ModelError as error:
        problem = str(error)
    terminal.write_json(
        {
            "a": str(a),
            "b": str(b),
            "structure": to_plain(structure),
            "outputs": to_plain(tuple(outputs)),
            "problem": problem,
        }
    )
    terminal.show(_structure_lines(structure, None if verbose else _SHOWN))
    terminal.show(_number_lines(outputs, problem, terminal.width))


def _structure_lines(structure: Structure, shown: int | None) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units

    if structure.same:
        yield ("structure: the same", "bold")
        return
    yield ("structure", "bold")
    yield from (f"  {text}" for text in structure.interface)
    if structure.opset[0] != structure.opset[1]:
        yield f"  opset {structure.opset[0]} -> {structure.opset[1]}"
    for name, (old, new) in structure.sizes.items():
        text = units.size if name == "weight_bytes" else units.count
        yield f"  {name.replace('_', ' ')} {text(old)} -> {text(new)} {units.change(old, new)}".rstrip()
    if structure.ops:
        yield ("operators", "bold")
        yield from (f"  {op} {old} -> {new}" for op, (old, new) in structure.ops.items())
    yield from _part_lines("nodes", structure.nodes, shown)
    yield from _part_lines("weights", structure.weights, shown)


def _part_lines(title: str, parts: Parts, shown: int | None) -> Iterator[str | tuple[str, str]]:
    if not parts:
        return
    yield (f"{title}: {len(parts.added)} new, {len(parts.removed)} gone, {len(parts.changed)} changed", "bold")
    lines = [f"  - {name}" for name in parts.removed], [f"  + {name}" for name in parts.added]
    for group in (*lines, [f"  ~ {change.name}: {change.what}" for change in parts.changed]):
        yield from group[:shown]
        if shown is not None and len(group) > shown:
            yield f"  {group[0].split()[0]} and {len(group) - shown} more (-v lists them)"


def _number_lines(
    outputs: Sequence[OutputDifference], problem: str | None, width: int
) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units
    from lpcc.report.table import Column, table

    yield ""
    if problem is not None:
        yield (f"numbers: not compared: {problem}", "yellow")
        return
    columns = [
        Column("output", elastic=True, tail=True),
        Column("largest difference", right=True),
        Column("SQNR", right=True),
    ]
    rows = [
        [each.name, "none" if each.relative == 0 else f"{each.relative:.3g}", units.decibels(each.sqnr_db)]
        for each in outputs
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body
    yield "differences are relative to the largest magnitude of the output"

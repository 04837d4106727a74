"""``lpcc sensitivity``: what each layer's channels are worth."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal, check_writable
from lpcc.errors import UsageError

if TYPE_CHECKING:
    from lpcc.pipeline import Pass
    from lpcc.sensitivity import Entry, Survey


def sensitivity(
    model: options.Model,
    calib: Annotated[
        str,
        typer.Option(
            "--calib", metavar="DATA", show_default=False, help="Images: .npz, folder of images, or module:function."
        ),
    ],
    shares: Annotated[
        str, typer.Option("--shares", metavar="LIST", help="Shares of a layer's channels to try, with commas between.")
    ] = "0.1,0.25,0.5,0.75,0.9",
    images: Annotated[
        int | None,
        typer.Option("--images", min=2, show_default="500, fewer of large ones", help="How many to use at most."),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="DATA", show_default=False, help="Other images to judge on; with labels: top1."),
    ] = None,
    preprocess: options.Preprocessing = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", show_default=False, help="top1, agreement, sqnr, ..."),
    ] = None,
    criterion: Annotated[
        str, typer.Option("--criterion", metavar="NAME", help="Which channels go first; see `lpcc passes`.")
    ] = "reconstruction",
    repair: Annotated[
        str, typer.Option("--repair", metavar="layerwise|local|bias|none", help="How what is left is mended.")
    ] = "local",
    pipeline: Annotated[
        str, typer.Option("--pipeline", "-p", metavar="TEXT", help="Passes that the model goes through before.")
    ] = "exact",
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", show_default=False, help="Write a line for each layer and share."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", show_default=False, help="Keep what is measured: a second run goes on."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, show_default="one for each core", help="How many measure at a time."),
    ] = None,
    seed: options.Seed = 0,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure what pruning each layer costs in quality.

    Of one layer at a time a share of the channels is removed and what reads them is mended, as `prune-channels` does
    it; all others stay whole. The table says what that costs: how many of the images change their class, how far top1
    falls (--eval with labels), or which SQNR is left of outputs that are no classes. Layers that can only lose the same
    channels are measured once and have a row each. An interrupted run with --cache goes on where it stopped.
    """
    asked = _shares(shares)
    terminal = Terminal(quiet, json)
    given = [model, preprocess, *(Path(text) for text in (calib, evaluation) if text is not None)]
    terminal.check_json(csv, *given)
    if csv is not None:
        check_writable(csv)
        if any(path is not None and path.resolve() == csv.resolve() for path in given):
            raise UsageError(f"--csv {csv}: is an input of this command; choose another name")
    item = _pass(criterion, repair)

    from lpcc.data import Dataset
    from lpcc.graph import load, to_proto
    from lpcc.pipeline import Context, Need, Pipeline
    from lpcc.pipeline.runner import run_pipeline
    from lpcc.quality import parse_metric
    from lpcc.runtime import TensorSpec
    from lpcc.sensitivity import survey

    before = Pipeline.parse(pipeline)
    for step_before in before:
        if step_before.required - {Need.CALIBRATION}:
            raise UsageError(
                f"--pipeline {pipeline}: pass `{step_before.name}` needs more than images: leave it out here"
            )
    judged_by = None if metric is None else parse_metric(metric)
    if judged_by is not None and judged_by.needs_labels and evaluation is None:
        raise UsageError(f"--metric {metric} needs labelled images: give --eval")
    graph = load(model)
    inputs = TensorSpec.inputs_of(to_proto(graph))
    data = Dataset.open(calib, inputs, preprocess)
    needs_labels = judged_by is not None and judged_by.needs_labels
    other = None if evaluation is None else Dataset.open(evaluation, inputs, preprocess, labels_needed=needs_labels)
    with terminal.progress() as step:
        run_pipeline(graph, before, Context(calibration=data, seed=seed, progress=step))
        result = survey(
            graph,
            item,
            asked,
            data,
            evaluation=other,
            images=images,
            metric=judged_by,
            seed=seed,
            cache=cache,
            processes=processes,
            progress=step,
        )
    if csv is not None:
        result.write_csv(csv)
    terminal.write_json({"model": str(model), "pass": str(item), **_plain(result)})
    terminal.show(_lines(result, terminal.width))


def _shares(text: str) -> list[str]:
    """The shares, ascending, each once, as Python writes them. Raises UsageError for what is none."""
    found = set()
    for part in text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = 0.0
        if not 0 < number < 1:
            raise UsageError(f"--shares {text}: expected numbers above 0 and below 1 between the commas, not `{part}`")
        found.add(number)
    return [repr(number) for number in sorted(found)]


def _pass(criterion: str, repair: str) -> Pass:
    """What prunes. Raises UsageError where it has no such criterion or repair."""
    from lpcc.pipeline.known import known_passes
    from lpcc.pipeline.syntax import nearest, options_of

    kind: Any = known_passes()["prune-channels"]
    for option, value in (("criterion", criterion), ("repair", repair)):
        known = get_args(options_of(kind)[option][0])
        if value not in known:
            raise UsageError(f"--{option} {value}: there is none of that name; {nearest(value, known)}")
    found: Pass = kind(shares=("*=0",), criterion=criterion, repair=repair)
    return found


def _plain(result: Survey) -> dict[str, Any]:
    from lpcc.report.plain import to_plain

    plain: dict[str, Any] = to_plain(
        {
            "images": result.images,
            "metric": result.metric.name,
            "whole": result.whole,
            "layers": [
                {
                    "layer": entry.layer,
                    "group": entry.unit.name,
                    "share": float(entry.share),
                    "channels": entry.unit.channels,
                    "removed": entry.removed,
                    "cost": result.cost(entry),
                    **entry.values,
                }
                for entry in result
            ],
            "stays": result.found.stays,
        }
    )
    return plain


def _lines(result: Survey, width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report.table import Column, table

    columns = [
        Column("layer", elastic=True, tail=True),
        Column("together with", elastic=True, tail=True),
        Column("channels", right=True),
        *(Column(f"-{100 * float(share):g} %", right=True) for share in result.shares),
    ]
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in result:
        unit = entry.unit
        others = "" if entry.layer == unit.name else unit.name
        row = rows.setdefault((unit.name, entry.layer), [entry.layer, others, str(unit.channels)])
        row.append(_cell(result, entry))
    yield (f"{_measure(result)}, when a share of one layer's channels goes", "bold")
    title, *body = table(columns, list(rows.values()), width)
    yield (title, "bold")
    yield from body
    if any(entry.removed == 0 for entry in result):
        yield "-: less than one channel"
    if any(len(unit.layers) > 1 for unit in result.found.units):
        yield "layers that stand together lose the same channels: each row is the cost of all of them"
    reasons: dict[str, list[str]] = {}
    for layer, reason in result.found.stays.items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        text = f"{', '.join(layers)} {'stays' if len(layers) == 1 else 'stay'} whole: {reason}"
        yield from textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)


def _measure(result: Survey) -> str:
    """What the numbers are."""
    name, on = result.metric.name, f"{result.images} images"
    if name == "agreement":
        return f"% of {on} that change their class"
    if name == "sqnr":
        return f"SQNR of the outputs in dB on {on}"
    return f"{name} lost of {result.whole[name]:.2f} on {on}"


def _cell(result: Survey, entry: Entry) -> str:
    from lpcc.report import units

    cost = result.cost(entry)
    return units.NONE if cost is None else f"{cost:.1f}"

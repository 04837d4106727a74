"""``lpcc optimize``: a smaller, faster, verified model for a target."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal, check_output
from lpcc.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from lpcc.pipeline.runner import Hook

BUDGET_NOT_MET = BudgetError.exit_code


def optimize(
    model: options.Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="MODEL.TARGET.onnx", help="Where the result goes."),
    ] = None,
    target: options.TargetName = "host",
    pipeline: options.PipelineText = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="fast|accurate",
            show_default=False,
            help="How to quantise: the target's pipeline with that recipe; see `lpcc passes`.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="NODE",
            show_default=False,
            help="Layer that stays in float; `*` matches. Repeatable.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NODE", show_default=False, help="All layers but this stay in float. Repeatable."
        ),
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(
            "--calib", metavar="DATA", show_default=False, help="Images: .npz, folder of images, or module:function."
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="DATA", show_default=False, help="Labelled images that the budget is held on."),
    ] = None,
    train: options.Training = None,
    preprocess: options.Preprocessing = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", show_default=False, help="top1, top5, sqnr, ... or module:function."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            min=0,
            show_default="1 with labels",
            help="Budget with --eval: points that the metric may fall.",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement", min=0, max=100, show_default=False, help="Budget without labels: % with the same class."
        ),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option("--min-sqnr", show_default=False, help="Budget without labels: dB of the outputs' SQNR."),
    ] = None,
    emulate: options.Emulate = None,
    seed: options.Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what each pass would do and what that gains.")
    ] = False,
    json: options.JsonFile = None,
    force: Annotated[bool, typer.Option("--force", help="Let the output replace the input.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check the model after each pass.")] = False,
    dump_dir: Annotated[
        Path | None,
        typer.Option("--dump-dir", metavar="DIR", show_default=False, help="Write the model's text after each pass."),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make a model smaller, faster and cheaper on a target.

    The result is never slower on the target nor less accurate than the budget allows: what does not pay is taken back.
    The report says what was done, what it gained and what it cost. Where nothing approximate of the pipeline is within
    the budget, the rest is written all the same, and the exit code is 4.
    """
    for option, value in (("--max-drop", max_drop), ("--min-agreement", min_agreement), ("--min-sqnr", min_sqnr)):
        options.finite(option, value)
    terminal = Terminal(quiet, json)

    from lpcc import driver
    from lpcc.quality import parse_metric
    from lpcc.report.screen import screen
    from lpcc.target import Target

    device = Target.load(target)
    destination = output or model.parent / f"{model.stem}.{device.name.replace('/', '-')}.onnx"
    if metric is not None and parse_metric(metric).needs_labels and evaluation is None:
        raise UsageError(f"--metric {metric} needs labelled images: give --eval")
    given = [Path(text) for text in (calib, evaluation, train) if text is not None]
    terminal.check_json(model, destination, preprocess, *given)
    if not dry_run:
        check_output(destination, model, [*given, preprocess], force=force)
    asked: dict[str, Any] = {
        "target": device,
        "pipeline": pipeline,
        "preset": preset,
        "keep": options.names("--keep", keep),
        "only": options.names("--only", only),
        "calib": calib,
        "eval": evaluation,
        "train": train,
        "preprocess": preprocess,
        "metric": metric,
        "max_drop": max_drop,
        "min_agreement": min_agreement,
        "min_sqnr": min_sqnr,
        "emulate": emulate,
        "seed": seed,
    }
    with terminal.progress() as step:
        if dry_run:
            report = driver.plan(model, progress=step, **asked)
        else:
            hooks = _hooks(model, verify, dump_dir)
            result = driver.optimize(
                model, output=destination, progress=step, hooks=hooks, reproducers=_scratch(), **asked
            )
            result.save(destination, overwrite_input=force)
            report = result.report
    try:
        terminal.write_json(report.to_json())
    except UsageError as error:
        saved = "" if dry_run else f"; the model itself is written: {destination}"
        raise UsageError(f"{error}{saved}") from error
    terminal.show(screen(report, terminal.width, verbose=verbose))
    if not report.verdict.met_budget:
        raise typer.Exit(BUDGET_NOT_MET)


def _hooks(model: Path, verify: bool, dump_dir: Path | None) -> list[Hook]:
    from lpcc.graph import load, to_proto
    from lpcc.pipeline.hooks import Dump, Verify

    hooks: list[Hook] = []
    if verify:
        hooks.append(Verify(to_proto(load(model))))
    if dump_dir is not None:
        try:
            hooks.append(Dump(dump_dir))
        except OSError as error:
            raise UsageError(f"--dump-dir {dump_dir}: {error.strerror or error}") from error
    return hooks


def _scratch() -> Path:
    """Where a reproducer can be left: here, or else in the temporary folder."""
    here = Path.cwd()
    return here if os.access(here, os.W_OK) else Path(tempfile.gettempdir())

"""``lpcc retrain``: the weights of a model learned again from another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli import failure, options
from lpcc.cli.terminal import Terminal, check_output, check_writable
from lpcc.errors import UsageError

if TYPE_CHECKING:
    from lpcc.train.recipe import Recipe


def retrain(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="ONNX file to train.", show_default=False)],
    train: Annotated[
        str,
        typer.Option(
            "--train", metavar="DATA", show_default=False, help="Images: .npz, folder of images, or module:function."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default="STUDENT.trained.onnx", help="Where it goes."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option("--teacher", metavar="MODEL", show_default=False, help="ONNX file that shows what to do."),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Learn from the labels of the images, too.")] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times that the images are gone through.")] = 10,
    loss: Annotated[
        str,
        typer.Option("--loss", metavar="TEXT", help="What to compare: `kd+hint*0.1`; auto: as the outputs ask for."),
    ] = "auto",
    pair: Annotated[
        list[str] | None,
        typer.Option(
            "--pair", metavar="STUDENT=TEACHER", show_default=False, help="Hidden tensors to compare. Repeatable."
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images for each step.")] = 64,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", show_default="by the distance to TEACHER", help="The highest of the schedule."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Images: mirror half of them left to right.")] = False,
    crop: Annotated[int, typer.Option("--crop", min=0, help="Images: pixels by which to shift them at most.")] = 0,
    mix: Annotated[
        str, typer.Option("--mix", metavar="none|mixup|cutmix|both", help="Images: blend or paste pairs of them.")
    ] = "none",
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            show_default=False,
            help="Another option of training, such as optimiser=adamw; see docs/retraining.md. Repeatable.",
        ),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option("--trainer", metavar="MODULE:FUNCTION", show_default=False, help="Your loop in place of ours."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was interrupted.")] = False,
    evaluation: Annotated[
        str | None,
        typer.Option("--eval", metavar="DATA", show_default=False, help="Images to judge on, before and after."),
    ] = None,
    preprocess: options.Preprocessing = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", show_default=False, help="Of --eval: top1, agreement, sqnr, ..."),
    ] = None,
    seed: options.Seed = 0,
    json: options.JsonFile = None,
    force: Annotated[bool, typer.Option("--force", help="Let the output replace an input.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the weights of a model to do what another one does.

    STUDENT is a model that pruning, rounding or another lossy step has hurt, TEACHER the one before it. The images need
    no labels. What does best on a tenth of them, held out, is written: never worse there than STUDENT. An interrupted
    training goes on with --resume and ends as if nothing had happened.
    """
    terminal = Terminal(quiet, json)
    asked: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "mix": mix,
        "crop": crop,
        "flip": flip,
        "seed": seed,
    }
    recipe = _recipe(asked, more)
    destination = output or student.with_name(f"{student.stem}.trained.onnx")
    state = destination.with_name(destination.name + ".checkpoint")
    given = [teacher, preprocess, *(Path(text) for text in (train, evaluation) if text is not None)]
    terminal.check_json(student, destination, *given)
    check_output(destination, student, given, force=force)
    check_writable(state)
    if state.exists() and not resume:
        raise UsageError(f"{state}: a training was interrupted here: give --resume to go on, or remove the file")

    from lpcc.retraining import retrain as run

    if resume:
        terminal.show([f"going on from {state}" if state.exists() else f"{state} is not there: training begins anew"])
    try:
        with terminal.progress() as step:
            result = run(
                student,
                train=train,
                teacher=teacher,
                labels=labels,
                loss=loss,
                pairs=tuple(pair or ()),
                trainer=trainer or "",
                recipe=recipe,
                eval=evaluation,
                preprocess=preprocess,
                metric=metric,
                checkpoint=None if trainer else state,
                resume=resume,
                progress=step,
            )
    except KeyboardInterrupt:
        if state.exists():
            failure.line(f"{state} keeps what was learned: go on with --resume")
        raise
    result.save(destination, overwrite_input=force)
    state.unlink(missing_ok=True)
    terminal.write_json({"student": str(student), "output": str(destination), **result.to_json()})
    terminal.show([*result.lines(), (f"written: {destination}", "bold")])


def _recipe(asked: Mapping[str, Any], more: list[str] | None) -> Recipe:
    """The options of training, those that have an option of the command and the others.

    Raises:
        UsageError: one is unknown, out of its range, or given twice.
    """
    from lpcc.pipeline.syntax import ItemParser
    from lpcc.train.recipe import Recipe

    class Options(ItemParser):
        """Options of training as a pass has them in braces."""

        item_is = "training"

        def values(self) -> dict[str, Any]:
            found = self._options("recipe", Recipe)
            if self.peek():
                raise self.error(self.at, f"unexpected `{self.peek()}`")
            return found

        def error(self, at: int, message: str) -> UsageError:
            del at  # the text is short
            return UsageError(f"--set {self.text[1:-1]}: {message}")

    found = dict(asked)
    for text in more or []:
        name, equals, _ = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {text}: expected OPTION=VALUE, such as optimiser=adamw")
        for field, value in Options(f"{{{text}}}").values().items():
            if field in asked:
                raise UsageError(f"--set {text}: give it as --{field.replace('_', '-')}")
            if field in found:
                raise UsageError(f"--set {text}: given twice")
            found[field] = value
    return Recipe(**found)

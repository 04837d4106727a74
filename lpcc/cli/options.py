"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from lpcc.errors import UsageError

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.", show_default=False)]
TargetName = Annotated[
    str,
    typer.Option(
        "--target", "-t", metavar="NAME|FILE", help="Device: a name that `lpcc targets` lists, or a .toml file."
    ),
]
PipelineText = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        metavar="TEXT",
        show_default="the target's",
        help="Passes in order: `exact,quantize{ranges=mse}`; see `lpcc passes`.",
    ),
]
DataSpec = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DATA", show_default=False, help="Inputs: .npz, folder of images, or module:function."
    ),
]
Preprocessing = Annotated[
    Path | None,
    typer.Option("--preprocess", metavar="FILE", show_default=False, help="TOML file: how images become inputs."),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=SIZE",
        show_default="1 for the first, 224 for others",
        help="Size of an open dimension, by its name or its place: `batch=1`, `images[2]=320`. Repeatable.",
    ),
]
Emulate = Annotated[
    str | None,
    typer.Option(
        "--emulate",
        metavar="KERNELS",
        show_default=False,
        help="Whose integer kernels quality is judged by: arm, x86-vnni, x86-novnni.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", show_default=False, help="Write the numbers there too; `-`: to stdout."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]


def sizes(given: list[str] | None) -> dict[str, int]:
    """Sizes of open dimensions, by name.

    Raises:
        UsageError: one is not of the form ``name=size``, is given twice, or is no whole number above 0.
    """
    found: dict[str, int] = {}
    for text in given or []:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) == 0:
            raise UsageError(f"--dim {text}: expected NAME=SIZE with a whole number above 0, such as batch=1")
        if name in found:
            raise UsageError(f"--dim {text}: `{name}` is given twice")
        found[name] = int(number)
    return found


def names(option: str, given: list[str] | None) -> tuple[str, ...]:
    """Names that may also be given several at once, between commas.

    Raises:
        UsageError: one is empty; the message names `option`.
    """
    found = [name.strip() for text in given or [] for name in text.split(",")]
    if not all(found):
        raise UsageError(f"{option}: expected the name of a node between the commas")
    return tuple(dict.fromkeys(found))


def finite(option: str, value: float | None) -> float | None:
    """`value`, unless it is NaN or infinite.

    Raises:
        UsageError: it is; the message names `option`.
    """
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{option} {value}: expected a finite number")
    return value

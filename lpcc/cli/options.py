"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
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
Training = Annotated[
    str | None,
    typer.Option(
        "--train", metavar="DATA", show_default=False, help="Images to train on, labels not needed; as --calib."
    ),
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
        help="Judge by what the integer kernels of arm, x86-vnni or x86-novnni compute; simulated here, no emulator.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", show_default=False, help="Write the numbers there too; `-`: to stdout."),
]
Groups = Annotated[bool, typer.Option("--groups", help="List the channels that can only be removed together.")]
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


def check_data(data: str | None, dim: list[str] | None, **others: object) -> None:
    """Raise UsageError for what would have no effect: `dim` beside data, `others`, by their names, without."""
    if data is not None and dim:
        raise UsageError(f"--dim {dim[0]}: is for random inputs; the samples of --data have sizes of their own")
    for name, value in others.items():
        if data is None and value is not None:
            raise UsageError(f"--{name} {value}: is for the samples of --data, and there are none")


def names(option: str, given: list[str] | None) -> tuple[str, ...]:
    """Names that may also be given several at once, between commas; a name in double quotes may hold some.

    Raises:
        UsageError: one is empty, or quotes are not closed; the message names `option`.
    """
    found = [name for text in given or [] for name in _between_commas(option, text)]
    return tuple(dict.fromkeys(found))


def _between_commas(option: str, text: str) -> Iterator[str]:
    """The elements of a list as pipelines write it, with room around the commas."""
    rest = text
    while True:
        rest = rest.lstrip()
        if rest.startswith('"'):
            try:
                name, end = JSONDecoder().raw_decode(rest)
            except JSONDecodeError:
                raise UsageError(f"{option} {text}: unclosed or malformed quotes") from None
            rest = rest[end:].lstrip()
            if rest and not rest.startswith(","):
                raise UsageError(f"{option} {text}: expected a comma behind the quotes, not `{rest}`")
            _, comma, rest = rest.partition(",")
        else:
            name, comma, rest = rest.partition(",")
            name = name.strip()
        if not name:
            raise UsageError(f"{option} {text}: expected the name of a node between the commas")
        yield name
        if not comma:
            return


def finite(option: str, value: float | None) -> float | None:
    """`value`, unless it is NaN or infinite.

    Raises:
        UsageError: it is; the message names `option`.
    """
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{option} {value}: expected a finite number")
    return value

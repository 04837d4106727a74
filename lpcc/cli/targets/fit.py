"""``lpcc targets fit``: a target adapted to a board on which a few networks were measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal, check_writable
from lpcc.errors import UsageError

if TYPE_CHECKING:
    from lpcc.targets.fit.board import Fitted


def fit(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="The target to adapt, or a .toml file.", show_default=False)
    ],
    measurements: Annotated[
        Path, typer.Option("--measurements", metavar="FILE", help="CSV file of times.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Target file.", show_default="NAME.fitted.toml"),
    ] = None,
    dim: options.Sizes = None,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Adapt a target to measurements of whole networks.

    The CSV file has the columns model (an ONNX file, relative to it), milliseconds (of one inference) and perhaps
    millijoules; 5 rows at least, better 20. Writes a target that extends the given one and says how well it predicts
    networks that were not measured: each one is predicted by a fit to the others. Where that is no improvement, nothing
    is written.
    """
    terminal = Terminal(quiet, json)
    sizes = options.sizes(dim)
    given = Path(name)
    is_file = given.suffix == ".toml"
    file = output if output is not None else Path(f"{(given.stem if is_file else name).replace('/', '-')}.fitted.toml")
    if file.suffix != ".toml":
        raise UsageError(f"--output {file}: the name of a target file ends in .toml")
    if is_file and file.resolve() == given.resolve():
        raise UsageError(f"--output {file}: is the target to adapt; choose another name")
    check_writable(file)
    terminal.check_json(file, measurements)

    from lpcc.door import files
    from lpcc.target import Target
    from lpcc.targets.fit import board

    target = Target.load(name)
    if target.is_host:
        raise UsageError("target `host` is this machine: `lpcc targets measure` calibrates it")
    found = board.fit(target, board.read(measurements), sizes)
    base = os.path.relpath(given, file.parent) if is_file else name
    title = file.stem.removesuffix(".fitted")
    text = board.target_file(title, base, target, found, measurements.name)
    if found.improves:
        files.write_bytes({file: [text.encode()]})
    terminal.write_json(
        {
            "target": str(file) if found.improves else None,
            "mean_error_before": found.mean_before,
            "mean_error_after": found.mean_after,
            "scale": found.adaptation.scale,
            "factors": dict(found.adaptation.factors),
            "constant_ms": found.adaptation.constant_ms,
            "active_watts": found.watts,
            "networks": [
                {
                    "model": str(row.model),
                    "milliseconds": row.milliseconds,
                    "error_before": before,
                    "error_after": after,
                }
                for row, before, after in zip(found.rows, found.before, found.after, strict=True)
            ],
        }
    )
    terminal.show(_lines(file, found, terminal.width))


def _lines(file: Path, found: Fitted, width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units
    from lpcc.report.table import Column, table

    rows = [
        [str(row.model), units.ms(row.milliseconds), f"{100 * before:+.0f} %", f"{100 * after:+.0f} %"]
        for row, before, after in zip(found.rows, found.before, found.after, strict=True)
    ]
    columns = [
        Column("model", elastic=True, tail=True),
        Column("measured", right=True),
        Column("error before", right=True),
        Column("error after", right=True),
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body
    yield ""
    after = f"mean error {100 * found.mean_after:.1f} % (each network predicted by a fit to the others)"
    before = f"before {100 * found.mean_before:.1f} %"
    if found.improves:
        yield f"{file}: {after}, {before}"
    else:
        yield f"{after}, {before}"
        yield "the adaptation is no improvement on these networks: nothing is written, keep the target as it was"

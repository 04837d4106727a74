"""``lpcc targets measure``: a target file of the machine that lpcc runs on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal, check_writable
from lpcc.errors import UsageError

if TYPE_CHECKING:
    from lpcc.targets.fit.host.measure import Calibration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def measure(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the target.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Target file.", show_default="NAME.toml")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=120, help="Time to spend measuring.")] = 4.0,
    times: Annotated[
        Path | None,
        typer.Option(
            "--times", metavar="FILE", help="Fit times measured before, in place of measuring.", show_default=False
        ),
    ] = None,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Calibrate a target on this machine.

    Times some 600 small networks in onnxruntime with one thread, in turns, and throws away what other programs
    disturbed; fits what kernels cost; and compares predictions with measurements of networks that the fit did not see.

    Writes FILE, the kernel table beside it (.csv) and the raw times (.times.csv), all of them or none.
    """
    options.finite("--minutes", minutes)
    terminal = Terminal(quiet, json)
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name}: expected letters, digits, dots and dashes")
    file = output if output is not None else Path(f"{name}.toml")
    if file.suffix != ".toml":
        raise UsageError(f"--output {file}: the name of a target file ends in .toml")
    table, raw = file.with_suffix(".csv"), file.with_suffix(".times.csv")
    for path in (file, table, raw):
        check_writable(path)
    terminal.check_json(file, table, raw)

    from lpcc.door import files
    from lpcc.target import Target
    from lpcc.targets.fit.host import measure as work
    from lpcc.targets.host import detect

    base, layer = detect()
    target = Target.load("host")
    if times is not None:
        found = work.read_times(times)
    else:
        with terminal.progress() as step:
            measured = work.times_csv(work.measure(target.int8, minutes, step))
        found = work.parse_times(measured, raw)  # as a later run reads it, so that it fits the same
    done = work.calibrate(target, found)
    text, rows = work.files(name, base, layer, done, table.name)
    written: dict[Path, Iterable[bytes]] = {file: [text.encode()], table: [rows.encode()]}
    if times is None or times.resolve() != raw.resolve():
        written[raw] = [work.times_csv(found).encode()]
    files.write_bytes(written)
    terminal.write_json(
        {
            "target": str(file),
            "mean_error": done.mean_error,
            "networks": [{**vars(one), "error": one.error} for one in done.judged],
        }
    )
    terminal.show(_lines(file, done, terminal.width))


def _lines(file: Path, done: Calibration, width: int) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units
    from lpcc.report.table import Column, table

    rows = [
        [one.name, units.ms(one.measured_ms), units.ms(one.predicted_ms), f"{100 * one.error:+.0f} %"]
        for one in done.judged
    ]
    columns = [
        Column("network", elastic=True),
        Column("measured", right=True),
        Column("predicted", right=True),
        Column("error", right=True),
    ]
    title, *body = table(columns, rows, width)
    yield (title, "bold")
    yield from body
    yield ""
    kernels = {key[:2] for key in done.coefficients.values if key[1]}
    yield f"{file}: {len(kernels)} kinds of kernels; mean error {100 * done.mean_error:.1f} % on networks not fitted"

"""``lpcc emulator``: what `lpcc bench --on` needs, and setting it up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    from lpcc.emulate import Folder

app = typer.Typer(
    name="emulator",
    help="Set up the processor of `bench --on`.",
    rich_markup_mode=None,
)

Place = Annotated[
    Path | None,
    typer.Option(
        "--folder", metavar="DIR", show_default="LPCC_EMULATOR's, else one in the cache", help="Folder of the runtime."
    ),
]


@app.command()
def status(folder: Place = None) -> None:
    """Say what is there and what is missing."""
    Terminal().show(_status(_folder(folder)))


@app.command()
def install(folder: Place = None, quiet: options.Quiet = False) -> None:
    """Fetch Python, numpy and onnxruntime for arm64 from Debian and PyPI, without privileges.

    35 MB of downloads, 200 MB of disk. Does nothing where they are already there.
    """
    from lpcc.emulate.install import install as make

    terminal = Terminal(quiet)
    place = _folder(folder)
    with terminal.progress() as step:
        made = make(place, step)
    terminal.show(_installed(place, made))


@app.callback(invoke_without_command=True)
def _status_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        status()


def _folder(path: Path | None) -> Folder:
    from lpcc.emulate import Folder

    return Folder.default() if path is None else Folder(path.absolute())


def _status(folder: Folder) -> Iterator[str]:
    from lpcc.emulate.cpu import CPUS
    from lpcc.emulate.folder import GET_FOLDER
    from lpcc.emulate.install import tools

    if folder.ready:
        yield f"runtime: {folder.path}: onnxruntime {folder.onnxruntime}"
    else:
        yield f"runtime: none in {folder.path}: {GET_FOLDER}"
    for tool in tools():
        yield f"{tool.name}: {'found' if tool.present else tool.remedy}"
    yield "processors:"
    for cpu in CPUS.values():
        yield f"  {cpu.name}: {cpu.note}"


def _installed(folder: Folder, made: bool) -> Iterator[str]:
    from lpcc.emulate.install import tools

    yield f"{folder.path}: onnxruntime {folder.onnxruntime} for arm64 {'is ready' if made else 'was there already'}"
    for tool in tools():
        if not tool.present:
            yield f"note: {tool.remedy}"
    if folder != folder.default():
        yield f"set LPCC_EMULATOR={folder.path} to use it"

"""What a command says: results on stdout, progress on stderr, numbers into a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from lpcc.errors import UsageError

Progress = Callable[[str, int, int], None]
"""Told what is being done, the steps done, and their total (0 where unknown)."""

_PLAIN_WIDTH = 120  # where stdout is no terminal: the same everywhere, so that outputs can be compared
_NARROWEST = 40
_PATIENCE = 1.0  # seconds before a progress bar appears


@dataclass(frozen=True)
class Terminal:
    """Where the lines, the progress and the JSON of one command go."""

    quiet: bool = False
    json: Path | None = None

    @property
    def silent(self) -> bool:
        """Whether lines are dropped: asked for, or stdout is for JSON."""
        return self.quiet or self.json == Path("-")

    @property
    def width(self) -> int:
        """Columns of a line."""
        if not sys.stdout.isatty():
            return _PLAIN_WIDTH
        return max(shutil.get_terminal_size().columns, _NARROWEST)

    def show(self, lines: Iterable[str | tuple[str, str]]) -> None:
        """Print lines, each a text or a text with a rich style; styles vanish where colour is not wanted."""
        if self.silent:
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False, soft_wrap=True)
        for line in lines:
            if isinstance(line, str):
                sys.stdout.write(f"{line}\n")
            else:
                console.print(Text(line[0], style=line[1]))

    def check_json(self, *others: Path | None) -> None:
        """Raise UsageError, before any work is done, if the JSON cannot be written or would replace one of `others`."""
        if self.json is not None and self.json != Path("-"):
            check_writable(self.json)
            for other in others:
                if other is not None and other.resolve() == self.json.resolve():
                    raise UsageError(f"--json {self.json}: is another file of this command; choose another name")

    def write_json(self, data: dict[str, Any]) -> None:
        """Write `data` to the file that ``--json`` names, if any.

        Raises:
            UsageError: the file cannot be written.
        """
        if self.json is None:
            return
        import json

        text = json.dumps(data, indent=2, allow_nan=False) + "\n"
        if self.json == Path("-"):
            sys.stdout.write(text)
            return
        from lpcc.door import files

        files.write_bytes({self.json: [text.encode()]})

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A function that shows progress: a bar on stderr after a second of work, nothing where that is no terminal.

        What is being done may change from step to step behind a colon (``training: epoch 2/10``): it stays one bar.
        """
        if self.quiet or not sys.stderr.isatty():
            yield lambda _what, _done, _total: None
            return
        from rich import progress
        from rich.console import Console

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        began = monotonic()
        tasks: dict[str, progress.TaskID] = {}  # at most one: what is being done now

        def step(what: str, done: int, total: int) -> None:
            name = what.partition(":")[0]
            if name not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[name] = bar.add_task(what, total=total or None, visible=bool(what))
            bar.update(tasks[name], description=what, completed=done, total=total or None)
            if monotonic() - began > _PATIENCE and not bar.live.is_started:
                bar.start()

        try:
            yield step
        finally:
            bar.stop()


def check_writable(path: Path) -> None:
    """Raise UsageError if a file cannot be written to `path`, as far as can be told without writing."""
    import os

    from lpcc.door.files import refuse_unwritable

    refuse_unwritable(path)
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written: no permission to write in {folder}")


def check_output(output: Path, model: Path, others: Iterable[Path | None], *, force: bool) -> None:
    """Raise UsageError, before any work is done, if the output cannot be written or would replace an input.

    With `force` it may replace the `model` that it is made from, but none of the `others`.
    """
    from lpcc.door.files import refuse_input

    check_writable(output)
    if not force:
        refuse_input(output, model.resolve())
    for other in others:
        if other is not None and other.resolve() == output.resolve():
            raise UsageError(f"{output}: is an input of this command; choose another output")

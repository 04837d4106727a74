"""Errors as the command line tells them: one line, an exit code, and for our own bugs a reproducer."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from lpcc.errors import LpccError

_BUG, _USAGE, _REFUSED = 1, 2, 3
_UsageError, _CommandLineError = typer.BadParameter.__mro__[1:3]  # whose module differs between releases of typer
_NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
_COPIED = 2**28
"""Bytes; larger models are not copied into a reproducer."""


def tell(error: Exception, arguments: Sequence[str]) -> int:
    """Print one line about `error`, which ended the command line `arguments`; return the exit code.

    With ``-v`` or LPCC_DEBUG set, a traceback follows for errors that are our own.
    """
    code = _tell(error, arguments)
    if code == _BUG and (os.environ.get("LPCC_DEBUG") or {"-v", "--verbose"} & set(arguments)):
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
    return code


def line(text: str) -> None:
    """Print `text` as one line on stderr."""
    sys.stderr.write(f"lpcc: {' '.join(text.split())}\n")


def _tell(error: Exception, arguments: Sequence[str]) -> int:
    if isinstance(error, LpccError) and error.exit_code != _BUG:
        line(f"error: {error}")
        return error.exit_code
    if isinstance(error, _CommandLineError):
        line(f"error: {_usage(error)}")
        return _USAGE
    if isinstance(error, MemoryError):
        line(f"error: not enough memory{f': {error}' if str(error) else ''}")
        return _REFUSED
    if isinstance(error, OSError) and error.errno in _NO_PATH:
        line(f"error: {error.filename}: {error.strerror}")
        return _USAGE
    if isinstance(error, OSError) and error.errno in _FULL:  # where text goes; files are written by lpcc.door
        line(f"error: the output cannot be written: {error.strerror}")
        return _USAGE
    what = str(error) if isinstance(error, LpccError) else f"{type(error).__name__}: {error}"
    line(f"a bug of ours: {what}; please report it; {_reproducer(error, arguments)}")
    return _BUG


def _usage(error: Exception) -> str:
    """What typer says about a wrong command line, and where to read on."""
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lpcc"
    return f"{message.rstrip('.')}; see `{command} --help`"


def _reproducer(error: Exception, arguments: Sequence[str]) -> str:
    """Where the reproducer is: the one that a hook left, as its note on the error says, else a new one."""
    for noted in (error, error.__cause__):
        for note in getattr(noted, "__notes__", ()):
            if note.startswith("reproducer saved"):
                return str(note)
    folder = _save_reproducer(error, arguments)
    return f"reproducer saved in {folder}" if folder else "no reproducer could be saved"


def _save_reproducer(error: Exception, arguments: Sequence[str]) -> Path | None:
    """A new folder, here or else in the temporary folder, with what is needed to see the error again."""
    import shlex
    import shutil
    import tempfile
    import traceback

    from lpcc.report.versions import versions

    for parent in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            folder = Path(tempfile.mkdtemp(prefix="lpcc-reproducer-", dir=parent))
            (folder / "command.txt").write_text(shlex.join(["lpcc", *arguments]) + "\n")
            (folder / "error.txt").write_text("".join(traceback.format_exception(error)))
            (folder / "versions.txt").write_text("".join(f"{name} {number}\n" for name, number in versions().items()))
            for path in map(Path, arguments):
                if path.suffix == ".onnx" and path.is_file() and path.stat().st_size <= _COPIED:
                    shutil.copyfile(path, folder / path.name)
        except OSError:
            continue
        return folder
    return None

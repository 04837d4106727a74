"""The command line ``lpcc``: a module for each command, `app` puts them together, `failure` turns errors into lines.

Nothing heavy is imported before a command needs it, so that ``lpcc --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import NoReturn, TextIO


def _nowhere() -> TextIO:
    """Where text goes that nobody wants: Python has no stream where the caller closed it."""
    return Path(os.devnull).open("w", encoding="utf-8")


def main() -> NoReturn:
    """Console entry point: run the command that the process's arguments name and exit with its code."""
    import warnings

    from lpcc.cli.app import run

    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries; lpcc says what it has to say in its own words
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in models may hold what the terminal cannot show
    sys.exit(run(sys.argv[1:]))

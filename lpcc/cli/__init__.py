"""The command line ``lpcc``: a module for each command, `app` puts them together, `failure` turns errors into lines.

Nothing heavy is imported before a command needs it, so that ``lpcc --help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Console entry point: run the command that the process's arguments name and exit with its code."""
    import warnings

    from lpcc.cli.app import run

    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries; lpcc says what it has to say in its own words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in models may hold what the terminal cannot show
    sys.exit(run(sys.argv[1:]))

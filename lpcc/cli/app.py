"""The commands put together, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lpcc import __version__
from lpcc.cli import bench, bisect, diff, emulator, failure, inspect, optimize, passes, retrain, sensitivity, targets
from lpcc.cli import print as print_command

_INTERRUPTED = 130
_BROKEN_PIPE = 141  # as of a program that SIGPIPE ended

app = typer.Typer(
    name="lpcc",
    help="An optimising compiler for low-power computer vision: ONNX in, a target device, ONNX out; never worse.",
    epilog="Exit codes: 0 done, 1 a bug of lpcc's, 2 wrong usage, 3 model or data refused, 4 budget not met.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(optimize.optimize)
app.command()(retrain.retrain)
app.command()(inspect.inspect)
app.command(name="print")(print_command.print_model)
app.command()(diff.diff)
app.command()(bench.bench)
app.command()(passes.passes)
app.command()(sensitivity.sensitivity)
app.command()(bisect.bisect)
app.add_typer(targets.app)
app.add_typer(emulator.app)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"lpcc {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` (without the program's name) and return the exit code.

    Every error ends here, as one line on stderr.
    """
    try:
        status = app(args=list(arguments), prog_name="lpcc", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except (BrokenPipeError, SystemExit):  # rich and typer exit where the reader of a pipe is gone
        _discard_output()
        return _BROKEN_PIPE
    except Exception as error:
        return failure.tell(error, arguments)
    if status == _INTERRUPTED:
        failure.line("interrupted")
    return status if isinstance(status, int) else 0


def _discard_output() -> None:
    """Let the interpreter's flush at exit go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file
        return

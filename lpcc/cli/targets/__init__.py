"""``lpcc targets``: the devices that lpcc knows; a module for each of its commands."""

from __future__ import annotations

import typer

from lpcc.cli.targets.fit import fit
from lpcc.cli.targets.listing import listing
from lpcc.cli.targets.measure import measure
from lpcc.cli.targets.show import show

__all__ = ["app"]

app = typer.Typer(
    name="targets",
    help="The devices: list them, show one, calibrate your own.",
    rich_markup_mode=None,
)
app.command(name="list")(listing)
app.command()(show)
app.command()(measure)
app.command()(fit)


@app.callback(invoke_without_command=True)
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        listing()

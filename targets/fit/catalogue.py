"""``docs/targets.md``, written from the targets: ``python -m lpcc.targets.fit.catalogue``.

Each target with the numbers that its own file states, their sources, and how well it meets measurements, with a plot
of predicted against measured where ``docs/plots`` has one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lpcc.report.numbers import Stated, quality, stated
from lpcc.target import Target, numbers_of
from lpcc.targets import BUILTIN

DOCS = Path(__file__).parents[2] / "docs"

_HEAD = """# Targets

<!-- Written by `python -m lpcc.targets.fit.catalogue`; do not edit. -->

Every device that lpcc knows: the numbers that its file states, where each is from, and how well predictions meet
measurements that the fit did not see. How to write a file of your own, and what the keys mean:
[target-files.md](target-files.md). How the numbers were fitted and checked: [cost-models.md](cost-models.md).

Predictions are for one inference on one thread with warm caches, unless a target says otherwise. They serve to compare
two versions of a network on one device first, and to tell milliseconds second.
"""


def catalogue(plots: Path = DOCS / "plots") -> str:
    """The whole page, in Markdown. `plots` is the folder where each target's plot lies, if it has one."""
    parts = [_HEAD, _overview()]
    parts += [_section(name, plots) for name in BUILTIN]
    return "\n".join(parts)


def plot_of(name: str) -> str:
    """File name of a target's plot."""
    return f"{name.replace('/', '-')}.svg"


def _overview() -> str:
    rows = []
    for name in BUILTIN:
        target = Target.load(name)
        found = target.quality
        error = "" if found.median_error_percent is None else f"{found.median_error_percent:g} % on {found.networks}"
        scheme = target.int8.scheme if target.int8 else ""
        rows.append([f"[{name}](#{_anchor(name)})", target.core.name, target.runtime, scheme, error])
    return _table(["target", "core", "runtime", "int8", "median error, networks"], rows)


def _section(name: str, plots: Path) -> str:
    target = Target.load(name)
    layer = tomllib.loads(BUILTIN[name].read_text(encoding="utf-8"))
    own = set(numbers_of(layer))
    base = layer.get("extends")
    lines = [f"## {name}", "", f"{target.description}.", ""]
    if base is not None:
        lines += [f"As [{base}](#{_anchor(base)}), but for what is stated here.", ""]
    lines += [f"Predictions against measurements: {quality(target.quality)}.", ""]
    if (plots / plot_of(name)).is_file():
        lines += [f"![predicted against measured](plots/{plot_of(name)})", ""]
    rows = [row for row in stated(target) if row.path in own]
    if rows:
        lines += [_table(["number", "value", "source"], [[f"`{p}`", text, s] for p, text, s in _grouped(rows)])]
    if "tables" in layer:
        table = (BUILTIN[name].parent / layer["tables"]["kernels"]).resolve()
        file = table.relative_to(DOCS.parent.resolve()).as_posix()
        kinds = ", ".join(sorted({f"{kind} {form}" for kind, form in target.tables.rows}))
        lines += [f"Fitted kernels ([{table.name}](../{file})): {kinds}.", ""]
    return "\n".join(lines)


def _grouped(rows: Iterable[Stated]) -> Iterator[tuple[str, str, str]]:
    """Rows of one table with one source are one row: ``memory.l1_kib, l2_kib``."""
    groups: dict[tuple[str, str], list[Stated]] = {}
    for row in rows:
        groups.setdefault((row.path.rpartition(".")[0], row.source), []).append(row)
    for (parent, source), members in groups.items():
        names = [row.path.rpartition(".")[2] for row in members]
        path = f"{parent}.{', '.join(names)}" if parent else ", ".join(names)
        yield path, ", ".join(row.text for row in members), source


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _anchor(name: str) -> str:
    """Where Markdown puts the heading of that name."""
    return name.lower().replace("/", "")


if __name__ == "__main__":
    (DOCS / "targets.md").write_text(catalogue(), encoding="utf-8")

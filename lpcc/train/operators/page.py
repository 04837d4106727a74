"""The page of documentation that lists the operators: docs/training-operators.md."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import onnx.defs

from lpcc.train.operators import MICROSOFT, OLDEST, OPERATORS, STANDARD
from lpcc.train.operators.call import Lowering

CONTROL = ("If", "Loop", "Scan")
"""Operators with subgraphs, which the interpreter itself runs."""

_LISTED_UP_TO = 20
"""Opset whose operators are compared with the known ones: a newer `onnx` knows more, and the page would change."""

_HEAD = f"""# The operators that can be trained through

<!-- Written by `python -m lpcc.train.operators docs/training-operators.md`; a test compares. -->

`lpcc retrain` and the pass `distill` run the nodes of a graph in torch. These are the operators that they know, from
opset {OLDEST} to today's; an operator means what it means at the opset that the model imports. The interpreter itself
runs {", ".join(CONTROL[:-1])} and {CONTROL[-1]}. An operator that is not listed runs in onnxruntime where nothing that
is trained lies before it; else the model is refused, with the name of the node.

What to know:

- Outputs are those of onnxruntime within rounding; `python benchmarks/training_operators.py` runs ONNX's own backend
  tests through these operators and prints how many of each are right.
- Integers of at most 16 bits are held as real numbers, so that gradients pass through quantised graphs; casts to them
  pass the gradient straight through. Unsigned integers of 32 and 64 bits are held as signed ones of 64.
- torch does not compute with strings, complex numbers and reals of a byte or less: such forms are refused.
- Refused forms besides: convolutions and pools of more than three dimensions, cubic GridSample of volumes,
  BatchNormalization with spatial=0 or with the statistics of the batch as outputs (before opset 14), Scan before
  opset 9.
"""


def page() -> str:
    """The whole page, in Markdown."""
    contrib = {op: lowering for module in MICROSOFT for op, lowering in module.MICROSOFT.items()}
    missing = ", ".join(sorted(_missing()))
    families = [_family(module.__doc__ or "", module.STANDARD) for module in STANDARD]
    rest = f"## Not known\n\nOf the operators of ONNX up to opset {_LISTED_UP_TO}: {missing}.\n"
    return "\n".join([_HEAD, *families, _family("Operators of the domain com.microsoft.", contrib), rest])


def _family(title: str, table: Mapping[str, Lowering]) -> str:
    heading = title.strip().splitlines()[0].rstrip(".")
    about = {op: _about(lowering) for op, lowering in sorted(table.items())}
    rows = "".join(f"| {op} | {said} |\n" for op, said in about.items() if said)
    found = f"## {heading}\n\n| operator | what is computed |\n|---|---|\n{rows}" if rows else f"## {heading}\n"
    plain = ", ".join(op for op, said in about.items() if not said)
    return f"{found}\nAs ONNX defines them: {plain}.\n" if plain else found


def _about(lowering: Lowering) -> str:
    """The first paragraph of what a lowering says of itself, for a cell of a table."""
    said = " ".join(inspect.cleandoc(lowering.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
    parts = said.split("`")
    return "`".join(part if index % 2 else part.replace("*", "\\*") for index, part in enumerate(parts))


def _missing() -> set[str]:
    known = {op for domain, op in OPERATORS if not domain} | set(CONTROL)
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            first[schema.name] = min(schema.since_version, first.get(schema.name, 10**6))
    return {op for op, since in first.items() if since <= _LISTED_UP_TO} - known

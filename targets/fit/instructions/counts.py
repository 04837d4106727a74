"""Counted kernels as rows of a CSV file: all that formulas may look at, and the instructions that were executed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.geometry import Geometry
from lpcc.analysis.kernels import Kernel, Operand, kernels
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto

GEOMETRY = tuple(f.name for f in fields(Geometry))


@dataclass(frozen=True)
class Row:
    """One counted kernel. `counts` is keyed by instruction set and class: ``("armv8", "mac")``."""

    name: str
    kernel: Kernel
    counts: dict[tuple[str, str], float]
    network: str = ""

    @property
    def ops(self) -> tuple[str, ...]:
        """Operators of the kernel, the main one first; conversions, of which nothing is left, left out."""
        found = (edit.op(node) for node in self.kernel.nodes)
        kept = tuple(op for op in found if op not in ("QuantizeLinear", "DequantizeLinear"))
        return kept or (edit.op(self.kernel.node),)


SETS = ("armv8", "dotprod")
CLASSES = ("mac", "other")
_AMOUNTS = ("weight_bytes", "macs", "channels", "elements", "blocked")
COLUMNS = (
    *("network", "name", "kind", "dtype", "scheme", "op", "ops", "inputs", "outputs", "input_bytes", "output_bytes"),
    *_AMOUNTS,
    *GEOMETRY,
    *(f"{isa}_{name}" for isa in SETS for name in CLASSES),
)


def kernel_of(model: onnx.ModelProto, kind: str) -> Kernel:
    """The kernel of that kind in a one-kernel model. Raises ValueError if there is not exactly one."""
    graph = from_proto(model)
    annotate(graph)
    found = [k for k in kernels(graph, isa=("aarch64",)) if k.kind == kind and k.nodes]
    if len(found) != 1:
        raise ValueError(f"{len(found)} kernels of kind {kind}")
    return found[0]


def write(path: Path, rows: Iterable[Row], comment: str) -> None:
    """Writes counts; unknown ones stay empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in comment.splitlines())
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for row in rows:
            k = row.kernel
            counted = [row.counts.get((isa, name)) for isa in SETS for name in CLASSES]
            out.writerow(
                [
                    *(row.network, row.name, k.kind, k.dtype, k.scheme, k.op, "+".join(row.ops)),
                    *(len(k.inputs), len(k.outputs)),
                    *(sum(o.nbytes for o in operands) for operands in (k.inputs, k.outputs)),
                    *(int(getattr(k, name)) for name in _AMOUNTS),
                    *(asdict(k.geometry)[name] for name in GEOMETRY),
                    *("" if value is None else f"{value:.0f}" for value in counted),
                ]
            )


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a file. Their kernels have no tensors, only what formulas ask for."""
    with path.open(encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    return tuple(_row(cells) for cells in csv.DictReader(lines))


def _row(cells: dict[str, str]) -> Row:
    nodes = tuple(gs.Node(op=op, name=cells["name"]) for op in cells["ops"].split("+"))
    kernel = Kernel(
        op=cells["op"],
        kind=cells["kind"],
        dtype=cells["dtype"],
        scheme=cells["scheme"],
        node=nodes[0],
        nodes=nodes,
        inputs=_operands(int(cells["inputs"]), int(cells["input_bytes"])),
        outputs=_operands(int(cells["outputs"]), int(cells["output_bytes"])),
        geometry=Geometry(**{name: int(cells[name]) for name in GEOMETRY}),
        **{name: int(cells[name]) for name in _AMOUNTS if name != "blocked"},
        blocked=cells["blocked"] == "1",
    )
    counts = {(i, c): float(cells[f"{i}_{c}"]) for i in SETS for c in CLASSES if cells[f"{i}_{c}"]}
    return Row(cells["name"], kernel, counts, cells["network"])


def _operands(count: int, nbytes: int) -> tuple[Operand, ...]:
    """Operands of that many bytes together."""
    sizes: Sequence[int] = [nbytes - (count - 1), *[1] * (count - 1)] if count else []
    return tuple(Operand(gs.Variable("", np.float32), size) for size in sizes)

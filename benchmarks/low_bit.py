"""Bits against error and predicted energy: one network with its weights in one number format after the other.

    python benchmarks/low_bit.py [--model cifar10_resnet20_jpegft] [--images 2000] [--plots FOLDER]

For each format `quantize-weights`, without training and without images; accuracy and agreement with the float network
on evaluation images, SQNR of the outputs in dB, size of the file, bits of a weight in it (scales and tables included)
and those that the codes need. Activations stay float as the network runs.

Energy is that of one inference on one generic datapath in 45 nm (targets `shift` and `xnor`), predicted by lpcc's cost
model, with the unit that the format needs: multipliers as wide as the numbers, shifters, adders, or XNOR gates. Beside
weights of 8 bits or fewer, activations count with 8 bits; to round them, too, costs ResNet-20 another 0.1 points.

With --products, instead: times of matrix products with weights in integers, which onnxruntime reads as they are, in ms
with one thread (medians), and what it makes of them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import zoo
from rich.console import Console
from rich.table import Table

from lpcc.analysis.storage import storage
from lpcc.cost import CostModel
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.quality import Difference, scores
from lpcc.runtime import Session, optimised
from lpcc.target import Target

_BATCH = 50
_RUNS = 40
_MULTIPLY_8 = 0.2
"""pJ of an 8-bit multiplication in 45 nm; others in proportion to both widths. Horowitz, ISSCC 2014."""
_ADD_32 = 0.1
_FLOAT = 3.7 + 0.9
"""pJ of a multiplication and an addition of float32, the same source."""


@dataclass(frozen=True)
class Format:
    """A row: how it is called, the options of `quantize-weights`, and the unit that multiplies.

    `weights` and `activations` are the widths of a multiplier's operands; None stands for float32.
    """

    name: str
    family: str
    options: str = ""
    target: str = "shift"
    weights: int | None = None
    activations: int = 8

    def machine(self) -> Target:
        """The datapath that is priced."""
        target = Target.load(self.target)
        if self.family not in ("float", "fixed point", "integer"):
            return target
        assert target.datapath is not None
        picojoules = _FLOAT if self.weights is None else _MULTIPLY_8 * self.weights * self.activations / 64 + _ADD_32
        path = replace(target.datapath, most_terms=0, pj_mac=picojoules, activation_bits=self.activations)
        return replace(target, datapath=path)


FORMATS = (
    Format("float32", "float", activations=32),
    Format("fixed 16", "fixed point", "format=fixed bits=16", weights=16, activations=16),
    Format("fixed 8", "fixed point", "format=fixed bits=8", weights=8),
    Format("fixed 6", "fixed point", "format=fixed bits=6", weights=6),
    Format("fixed 4", "fixed point", "format=fixed bits=4", weights=4),
    Format("fixed 4 by channel", "fixed point", "format=fixed bits=4 per-channel=true", weights=4),
    Format("int8", "integer", "format=int8", weights=8),
    Format("int4", "integer", "format=int4", weights=4),
    Format("int4, zero point", "integer", "format=int4 symmetric=false", weights=4),
    Format("int2, zero point", "integer", "format=int2 symmetric=false", weights=2),
    Format("k = 2", "powers of two", "format=pow2 k=2"),
    Format("k = 2, scale too", "powers of two", "format=pow2 k=2 scale=power"),
    Format("mean k = 1.5", "powers of two", "format=flightnn"),
    Format("k = 1", "powers of two", "format=pow2"),
    Format("k = 1, scale too", "powers of two", "format=pow2 scale=power"),
    Format("ternary", "signs", "format=ternary"),
    Format("ternary, two scales", "signs", "format=ttq"),
    Format("binary", "signs", "format=binary"),
    Format("binary, inputs too", "signs", "format=xnor", target="xnor"),
)


@dataclass(frozen=True)
class Row:
    """What came out for one format."""

    kind: Format
    bytes: int
    bits: float
    ideal: float
    accuracy: float
    agreement: float
    sqnr_db: float
    energy_uj: float


def judged(graph: gs.Graph, feed: str, images: np.ndarray) -> np.ndarray:
    """Class scores (N, C) of a network."""
    session = Session(to_proto(graph), threads=1)
    parts = []
    for start in range(0, len(images), _BATCH):
        part = scores(session.run({feed: images[start : start + _BATCH]})[session.outputs[0].name])
        assert part is not None
        parts.append(part)
    return np.concatenate(parts)


def measured(exact: gs.Graph, kind: Format, feed: str, images: np.ndarray, labels: np.ndarray) -> Row:
    """One format on one network."""
    graph = clone(exact)
    if kind.options:
        run_pipeline(graph, Pipeline.parse(f"quantize-weights{{{kind.options}}}"), Context())
    expected, found = judged(exact, feed, images), judged(graph, feed, images)
    difference = Difference()
    difference.add(expected, found)
    stored = storage(graph)
    return Row(
        kind,
        to_proto(graph).ByteSize(),
        stored.effective_bits,
        stored.ideal_bits,
        100 * float((found.argmax(1) == labels).mean()),
        100 * float((found.argmax(1) == expected.argmax(1)).mean()),
        difference.sqnr_db,
        1e3 * CostModel(kind.machine()).estimate(graph).energy_mj,
    )


def _label(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Write names beside points, each at the nearest place, right or left of its point, where none is yet."""
    size = 6.0
    scale = 72 / axes.figure.dpi
    placed = [tuple(scale * v for v in axes.transData.transform((x, y))) for x, y, _ in points]
    taken = [(px - 2, px + 2, py) for px, py in placed]  # left and right end and height, in points of the page
    for (x, y, name), (px, py) in sorted(zip(points, placed, strict=True), key=lambda entry: entry[1][::-1]):
        width = 0.55 * size * len(name)
        steps = sorted(range(-8, 9), key=abs)
        places = [(side, step * size * 0.5) for step in steps for side in (4.0, -4.0 - width)]
        for dx, dy in places:
            ends = (px + dx, px + dx + width, py + dy)
            if not any(ends[0] < right and left < ends[1] and abs(ends[2] - at) < size for left, right, at in taken):
                break
        taken.append(ends)
        axes.annotate(name, (x, y), (dx, dy - size / 3), textcoords="offset points", fontsize=size)


def draw(rows: list[Row], path: Path) -> None:
    """Error against bits of a weight, and against energy, as in the surveys' figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    mpl.rcParams.update({"svg.hashsalt": "lpcc", "svg.fonttype": "none", "font.size": 8})  # the same bytes every time
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for family in dict.fromkeys(row.kind.family for row in rows):
        own = [row for row in rows if row.kind.family == family]
        for axes, across in ((left, [row.bits for row in own]), (right, [row.energy_uj for row in own])):
            axes.plot(across, [100 - row.accuracy for row in own], "o", markersize=4, label=family)
    left.set(
        xscale="log",
        yscale="log",
        xlim=(0.5, 60),
        ylim=(11.5, 120),
        xlabel="bits of a weight in the file",
        ylabel="top-1 error, %",
    )
    left.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    left.set_yticks([12, 15, 20, 30, 50, 90], ["12", "15", "20", "30", "50", "90"])
    right.set(xscale="log", xlim=(5, 1200), xlabel="predicted energy of an inference, µJ")
    right.set_xticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_minor_locator(NullLocator())
    right.legend(frameon=False, loc="upper right")
    figure.draw_without_rendering()
    _label(left, [(row.bits, 100 - row.accuracy, row.kind.name) for row in rows])
    _label(right, [(row.energy_uj, 100 - row.accuracy, row.kind.name) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


PRODUCTS = ((1, 1024, 1000), (16, 1024, 1000), (128, 1024, 1000), (1, 4096, 4096), (16, 4096, 4096))
"""Rows, inputs and outputs."""


def products() -> Table:
    """Times of matrix products."""
    kinds = ("", *(f"format={kind}{block}" for kind in ("int8", "int4", "int2") for block in ("", " block=32")))
    table = Table("rows x inputs x outputs", *(kind or "float32" for kind in kinds), title="ms for a matrix product")
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in PRODUCTS:
        sides = [onnx.helper.make_tensor_value_info(n, 1, [rows, s]) for n, s in (("x", inputs), ("y", outputs))]
        weights = onnx.numpy_helper.from_array(rng.standard_normal((inputs, outputs)).astype(np.float32), "w")
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        made = onnx.helper.make_graph([node], "product", sides[:1], sides[1:], [weights])
        model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        feeds = {"x": rng.standard_normal((rows, inputs)).astype(np.float32)}
        cells = []
        for kind in kinds:
            graph = from_proto(model)
            options = f"{kind} ends=true" if kind else ""
            run_pipeline(graph, Pipeline.parse(f"quantize-weights{{{options}}}") if kind else (), Context())
            session = Session(to_proto(graph))
            times = []
            for _ in range(_RUNS):
                start = time.perf_counter()
                session.run(feeds)
                times.append(time.perf_counter() - start)
            fused = any(n.op_type == "MatMulNBits" for n in optimised(to_proto(graph)).graph.node)
            cells.append(f"{1e3 * float(np.median(times)):.3f}{'' if fused or not kind else ' (floats)'}")
        table.add_row(f"{rows} x {inputs} x {outputs}", *cells)
    return table


def main() -> None:
    """Print the table, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10_resnet20_jpegft")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--products", action="store_true")
    arguments = parser.parse_args()
    if arguments.products:
        Console(width=150).print(products())
        return
    exact = load(zoo.model(arguments.model))
    run_pipeline(exact, Pipeline.parse("exact"), Context())
    feeds, labels = zoo.load().feeds(arguments.model, "eval", arguments.images)
    ((feed, images),) = feeds.items()
    headings = ("format", "options", "kB", "bits", "needed", "top-1", "agree %", "SQNR dB", "µJ")
    table = Table(*headings, title=f"weights of {arguments.model} in few bits, {len(images)} images")
    rows = []
    for kind in FORMATS:
        row = measured(exact, kind, feed, images, labels)
        rows.append(row)
        table.add_row(
            f"{kind.family}: {kind.name}" if kind.family != "float" else kind.name,
            kind.options,
            f"{row.bytes / 1e3:.0f}",
            f"{row.bits:.2f}",
            f"{row.ideal:.2f}",
            f"{row.accuracy:.2f}",
            f"{row.agreement:.1f}",
            f"{row.sqnr_db:.1f}",
            f"{row.energy_uj:.1f}",
        )
    Console(width=150).print(table)
    if arguments.plots is not None:
        draw(rows, arguments.plots / "low_bit.svg")


if __name__ == "__main__":
    main()

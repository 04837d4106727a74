"""Cost tables of ncnn on Cortex-A cores, from the times that its users measured.

A kernel's time is a sum of terms of its shape (multiply-accumulates, elements that are packed or transformed, weights,
activations that no cache holds, the call); coefficients of all boards are fitted at once (`lpcc.targets.fit.hierarchy`)
with levels for the number format of floats, the version of ncnn (before and after its Winograd and int8 kernels were
redone in June 2022), the core and the board. A target's table leaves the board's level out.

Held out by network: a network, float and int8, is left out of the fit on all boards; then four others that were
measured on a board adapt the core's table to it, as ``lpcc targets fit`` does, and the network is predicted. Held out
by device too: the fit sees nothing of that board either.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, median

import numpy as np

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.types import annotate
from lpcc.cost.terms import Term
from lpcc.graph import from_proto
from lpcc.targets.fit.adapt import adapt
from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.hierarchy import Coefficients, Floats, Level, Sample, fit
from lpcc.targets.fit.networks.ncnn import networks

CORES = ("A53", "A55", "A72", "A76")
HALF = frozenset(["A55", "A76", "A78AE", "A720"])
"""Cores that compute in half precision."""
_ALSO = ("A57", "A73", "A78AE", "A720")  # further evidence for what cores share
_NEW = "2022-06"
_CALIBRATE = (
    ("squeezenet", "proxylessnasnet"),
    ("mobilenet_v2", "proxylessnasnet"),
    ("resnet18", "resnet50"),
    ("mobilenet_int8", "squeezenet_int8"),
)
"""The networks that adapt a target to a board, each with the one that steps in where it is the one held out."""
_ASKED = {"A53": 0.70, "A72": 0.70, "A55": 0.55, "A76": 0.55}
_NEAR = 0.1
_LARGE = 500_000
"""Bytes of a tensor from which on it counts as not cached."""

_FLOAT, _INT8 = "float", "int8"


@dataclass(frozen=True)
class Row:
    """One row of a kernel table: `unit` x the coefficient `name` counts for each unit of `term`.

    `unit` is meant for floats of 4 bytes.
    """

    name: str
    kind: str
    dtype: str
    term: str
    unit: float = 1.0


def _products(dtype: str, mark: str) -> list[Row]:
    """Rows of kernels that multiply; in int8 and in float these are different coefficients."""
    rows = [
        ("wino_mac", "winograd", "ceil(oh/6)*ceil(ow/6)*cin*cout*[cin<129&cout<129]", 64),
        ("wino_mac", "winograd", "ceil(oh/4)*ceil(ow/4)*cin*cout*![cin<129&cout<129]", 36),
        ("wino_move", "winograd", "ceil(oh/6)*ceil(ow/6)*cin*[cin<129&cout<129]", 64),
        ("wino_move", "winograd", "ceil(oh/6)*ceil(ow/6)*cout*[cin<129&cout<129]", 64),
        ("wino_move", "winograd", "ceil(oh/4)*ceil(ow/4)*cin*![cin<129&cout<129]", 36),
        ("wino_move", "winograd", "ceil(oh/4)*ceil(ow/4)*cout*![cin<129&cout<129]", 36),
        ("wino_weight", "winograd", "cin*cout", 36),
        ("point_mac", "pointwise", "ceil(pixels/4)*ceil(cout/4)*cin", 16),
        ("point_in", "pointwise", "pixels*cin", 1),
        ("point_out", "pointwise", "pixels*cout", 1),
        ("point_weight", "pointwise", "cin*cout", 1),
        ("stem_mac", "conv", "macs*[cin<4]", 1),
        ("stem_out", "conv", "pixels*cout*[cin<4]", 1),
        ("conv_mac", "conv", "pixels*depth*ceil(cout/4)*[cin>3]", 4),
        ("conv_column", "conv", "pixels*depth*[cin>3]", 1),
        ("conv_weight", "conv", "depth*cout*[cin>3]", 1),
        ("depth3", "depthwise", "macs*[kw<4&sw=1]", 1),
        ("depth3_stride", "depthwise", "macs*[kw<4&sw>1]", 1),
        ("depth5", "depthwise", "macs*[kw>3&sw=1]", 1),
        ("depth5_stride", "depthwise", "macs*[kw>3&sw>1]", 1),
        ("depth_in", "depthwise", "groups*ih*iw", 1),
        ("full_weight", "gemm", "macs", 1),
    ]
    return [Row(mark + name, kind, dtype, term, unit) for name, kind, term, unit in rows]


def _elements() -> list[Row]:
    rows = [
        ("point_mac", "grouped", "ceil(pixels/4)*ceil(cout/4)*cin*groups*[taps=1]", 16),
        ("point_in", "grouped", "pixels*cin*groups*[taps=1]", 1),
        ("point_out", "grouped", "pixels*cout*groups*[taps=1]", 1),
        ("wino_mac", "grouped", "ceil(oh/6)*ceil(ow/6)*cin*cout*groups*[taps=9&sw=1]", 64),
        ("wino_move", "grouped", "ceil(oh/6)*ceil(ow/6)*cin*groups*[taps=9&sw=1]", 64),
        ("wino_move", "grouped", "ceil(oh/6)*ceil(ow/6)*cout*groups*[taps=9&sw=1]", 64),
        ("wino_weight", "grouped", "cin*cout*groups*[taps=9&sw=1]", 64),
        ("conv_mac", "grouped", "pixels*depth*cout*groups*![taps=9&sw=1]*[taps>1]", 1),
        ("conv_column", "grouped", "pixels*depth*groups*![taps=9&sw=1]*[taps>1]", 1),
        ("group_move", "grouped", "pixels*groups*cout", 1),
        ("group_move", "grouped", "ih*iw*groups*cin", 1),
        ("group_call", "grouped", "groups", 1),
        ("binary", "elementwise", "elements*[inputs>1]", 1),
        ("unary", "elementwise", "elements*[inputs<2]", 1),
        ("exp", "activation", "elements", 1),
        ("pool", "pool", "elements*is(MaxPool)", 1),
        ("pool", "pool", "elements*is(AveragePool)", 1),
        ("reduce", "pool", "elements*is(GlobalAveragePool)", 1),
        ("reduce", "pool", "elements*is(GlobalMaxPool)", 1),
        ("reduce", "reduce", "elements", 1),
        ("copy", "concat", "elements", 1),
        ("copy", "copy", "elements", 1),
        ("permute", "transpose", "elements", 1),
        ("resize", "resize", "elements", 4),
        ("softmax", "softmax", "elements", 1),
        ("norm", "norm", "elements", 1),
        ("resize", "other", "output_bytes", 1 / 4),
        ("detect", "other", "input_bytes*is(DetectionOutput)", 1 / 4),
    ]
    return [Row(name, kind, _FLOAT, term, unit) for name, kind, term, unit in rows]


def _large(kind: str, dtype: str) -> list[Row]:
    read = (
        (f"input_bytes*[input_bytes>{_LARGE // 4}]", 1.0)
        if dtype == _INT8
        else (f"input_bytes*[input_bytes>{_LARGE}]", 1 / 4)
    )
    return [
        Row("large", kind, dtype, read[0], read[1]),
        Row("large", kind, dtype, f"output_bytes*[output_bytes>{_LARGE}]", 1 / 4),
    ]


def _rows() -> tuple[Row, ...]:
    rows = [*_products(_FLOAT, ""), *_products(_INT8, "i8_"), *_elements()]
    rows += [Row("quantize", kind, _INT8, "elements") for kind in ("quantize", "dequantize")]
    for kind, dtype in dict.fromkeys((row.kind, row.dtype) for row in rows):
        if kind not in ("quantize", "dequantize"):
            rows.append(Row("call", kind, dtype, "one"))
            if kind != "other":
                rows += _large(kind, dtype)
    return tuple(rows)


ROWS = _rows()

_PRIOR = {
    "wino_mac": 0.35, "wino_move": 2.5, "wino_weight": 1.5, "point_mac": 0.35, "point_in": 0.8, "point_out": 0.8,
    "point_weight": 1.0, "stem_mac": 0.45, "stem_out": 2.0, "conv_mac": 0.4, "conv_column": 1.5, "conv_weight": 1.0,
    "depth3": 0.9, "depth3_stride": 1.5, "depth5": 0.6, "depth5_stride": 1.2, "depth_in": 1.5, "full_weight": 1.5,
    "group_move": 2.0, "group_call": 2000.0, "binary": 3.0, "unary": 2.0,
    "exp": 20.0, "pool": 1.5, "reduce": 1.5, "copy": 3.0, "permute": 5.0, "resize": 6.0, "softmax": 20.0, "norm": 30.0,
    "detect": 50.0, "quantize": 1.0, "call": 6000.0, "large": 2.0,
}  # fmt: skip
"""Cycles of an in-order core without half precision, by count of instructions and bytes: where the fit starts."""
_GROUPS = {
    "winograd": ("wino_mac", "wino_move"),
    "dense": ("point_mac", "point_in", "point_out", "stem_mac", "stem_out", "conv_mac", "conv_column"),
    "depthwise": ("depth3", "depth3_stride", "depth5", "depth5_stride", "depth_in"),
    "weights": ("wino_weight", "point_weight", "conv_weight", "full_weight"),
    "grouped": ("group_move", "group_call"),
    "elements": ("binary", "unary", "exp", "pool", "reduce", "copy", "permute", "resize", "softmax", "norm"),
    "large": ("large",),
    "call": ("call",),
    "detect": ("detect",),
}
NAMES = tuple(dict.fromkeys(row.name for row in ROWS))


def _group(name: str) -> str:
    if name == "quantize":
        return "int8"
    if name.startswith("i8_"):
        own = {"wino_mac", "wino_move", "wino_weight"}
        plain = name.removeprefix("i8_")
        return "int8 winograd" if plain in own else "int8 depthwise" if plain.startswith("depth") else "int8"
    return next(group for group, names in _GROUPS.items() if name in names)


_ALL_GROUPS = tuple(dict.fromkeys(_group(name) for name in NAMES))
_GROUP_OF = np.array([_ALL_GROUPS.index(_group(name)) for name in NAMES])
_START = np.array([_PRIOR[n.removeprefix("i8_")] * (0.8 if n.startswith("i8_") else 1.0) for n in NAMES])
_INDEX = np.array([NAMES.index(row.name) for row in ROWS])


@dataclass(frozen=True)
class Board:
    """A board with a date: one core of it ran one thread."""

    name: str
    core: str
    ghz: float
    date: str

    @property
    def new(self) -> bool:
        """Whether ncnn had its present Winograd and int8 kernels."""
        return self.date >= _NEW

    @property
    def shared(self) -> tuple[Level, ...]:
        """What the board shares with others."""
        half = self.core in HALF
        return (
            Level("all", 0.5, 1.0, 0.0),
            Level(("half", half), 0.3, 0.8, 0.0),
            Level(("new", half, self.new), 0.2, 0.4, 0.0),
            Level(("core", self.core), 0.15, 0.4, 0.0),
        )

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels of the board."""
        return (*self.shared, Level(("board", self.name, self.date), 0.0, 0.08, 0.25))


Times = Mapping[Board, Mapping[str, float]]


def read(truth: Path, cores: Iterable[str] = (*CORES, *_ALSO)) -> dict[Board, dict[str, float]]:
    """Milliseconds (the least of a run) of networks on one thread of a core, by board."""
    found: defaultdict[Board, dict[str, float]] = defaultdict(dict)
    wanted = frozenset(cores)
    with (truth / "ncnn_boards.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            core = row["core"].lstrip("?")
            if row["threads"] == "1" and row["gpu"] == "-1" and core in wanted and row["ghz"]:
                board = Board(row["board"], core, float(row["ghz"]), row["date"])
                found[board][row["network"]] = float(row["min_ms"])
    return dict(found)


def amounts(truth: Path) -> dict[bool, dict[str, Floats]]:
    """Amount of each row of `ROWS` in each network, on cores without and with half precision."""
    models = networks(truth)
    found: dict[bool, dict[str, Floats]] = {False: {}, True: {}}
    for name, model in models.items():
        graph = from_proto(model)
        annotate(graph)
        for half in (False, True):
            steps = kernels(graph, None, "ncnn", ("aarch64", "neon", *(["fp16"] if half else [])))
            found[half][name] = _amounts(steps, half=half)
    return found


def _amounts(steps: Sequence[Kernel], *, half: bool) -> Floats:
    total = np.zeros(len(ROWS))
    for kernel in steps:
        dtype = _INT8 if kernel.dtype == "int8" else _FLOAT
        for index in _rows_of(kernel.kind, dtype):
            row = ROWS[index]
            total[index] += _unit(row, half=half) * Term.parse(row.term)(kernel)
    return total


@cache
def _rows_of(kind: str, dtype: str) -> tuple[int, ...]:
    return tuple(i for i, row in enumerate(ROWS) if (row.kind, row.dtype) == (kind, dtype))


def _unit(row: Row, *, half: bool) -> float:
    """Bytes of floats count as elements."""
    return row.unit * (2 if half and row.unit == 1 / 4 else 1)


def _by_name(rows: Floats) -> Floats:
    return np.asarray(np.bincount(_INDEX, rows, len(NAMES)), np.float64)


def table(times: Times, work: Mapping[bool, Mapping[str, Floats]], without: str = "") -> Coefficients:
    """Coefficients of all levels, fitted to all networks but the family `without`."""
    samples = [
        Sample(_by_name(work[board.core in HALF][name]), board.levels, milliseconds * 1e6 * board.ghz)
        for board, measured in times.items()
        for name, milliseconds in measured.items()
        if name in work[False] and family(name) != without
    ]
    return fit(samples, _START, _GROUP_OF)


def family(name: str) -> str:
    """A network in float and in int8 are one: neither helps to predict the other."""
    return name.removesuffix("_int8")


def parts(rows: Floats, cycles: Floats, ghz: float) -> dict[str, float]:
    """Predicted milliseconds of a network by the groups of ``lpcc.targets.fit.adapt``."""
    found: Counter[str] = Counter()
    for row, value in zip(ROWS, rows * cycles[_INDEX] / ghz / 1e6, strict=True):
        if value > 0:
            found[_part(row)] += value
    return dict(found)


def _part(row: Row) -> str:
    dense = ("winograd", "conv", "pointwise", "gemm", "grouped")
    group = "dense" if row.kind in dense else "depthwise" if row.kind == "depthwise" else "elements"
    return f"{group} int8" if row.dtype == _INT8 else group


@dataclass(frozen=True)
class Held:
    """A prediction of a network on a board, and what was measured."""

    board: Board
    network: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative error."""
        return self.predicted / self.measured - 1


def held_out(truth: Path, *, devices: bool = False) -> list[Held]:
    """All networks on all boards of the four cores, predicted without them; `devices`: without the board, too."""
    times, work = read(truth), amounts(truth)
    found = []
    for name in sorted({family(n) for n in work[False]}):
        whole = None if devices else table(times, work, name)
        for board, measured in times.items():
            rest = {other: value for other, value in times.items() if other.name != board.name}
            if board.core not in CORES or not any(family(n) == name for n in measured):
                continue
            cycles = (whole or table(rest, work, name)).of(board.shared)
            found += _predict(
                board, measured, {n: parts(work[board.core in HALF][n], cycles, board.ghz) for n in work[False]}, name
            )
    return found


def _predict(
    board: Board, measured: Mapping[str, float], predicted: Mapping[str, dict[str, float]], name: str
) -> list[Held]:
    chosen = [second if family(first) == name else first for first, second in _CALIBRATE]
    chosen = [n for n in dict.fromkeys(chosen) if n in measured]
    found = adapt([predicted[n] for n in chosen], [measured[n] for n in chosen])
    return [
        Held(board, n, found.predict_ms(predicted[n]), measured[n])
        for n in measured
        if n in predicted and family(n) == name
    ]


def report(held: Sequence[Held]) -> dict[str, dict[str, float]]:
    """By core: share within 10 %, median error, least and mean rank correlation of a board, share of right signs."""
    found = {}
    for core in CORES:
        mine = [h for h in held if h.board.core == core]
        boards = list(dict.fromkeys(h.board for h in mine))
        ranks = [_spearman([h for h in mine if h.board == board]) for board in boards]
        signs = _signs(mine)
        found[core] = {
            "networks": len(mine),
            "boards": len(boards),
            "within": mean(float(abs(h.error) <= _NEAR) for h in mine),
            "median": median(abs(h.error) for h in mine),
            "spearman": mean(ranks),
            "least_spearman": min(ranks),
            "sign": mean(map(float, signs)),
            "pairs": len(signs),
        }
    return found


def _signs(held: Sequence[Held]) -> list[bool]:
    floats = {(h.board, h.network): h for h in held}
    pairs = [(h, floats.get((h.board, family(h.network)))) for h in held if h.network.endswith("_int8")]
    return [(i.predicted < f.predicted) == (i.measured < f.measured) for i, f in pairs if f is not None]


def _spearman(held: Sequence[Held]) -> float:
    ranks = [np.argsort(np.argsort([getattr(h, which) for h in held])) for which in ("predicted", "measured")]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def checks(truth: Path) -> list[Check]:
    """Leave-one-network-out on boards of four cores."""
    by_network, by_device = report(held_out(truth)), report(held_out(truth, devices=True))
    found = []
    for core, asked in _ASKED.items():
        mine, other = by_network[core], by_device[core]
        detail = (
            f"{mine['networks']} rows, {mine['boards']} boards, median error {100 * mine['median']:.1f} %; "
            f"the board held out as well: {100 * other['within']:.0f} %, median {100 * other['median']:.1f} %"
        )
        what = f"ncnn on Cortex-{core}, network held out, 4 networks calibrate the board"
        share = f"{100 * mine['within']:.0f} %"
        found.append(Check(f"{what}: within 10 %", f">= {100 * asked:.0f} %", share, mine["within"] >= asked, detail))
        rank = f"{mine['spearman']:.3f}"
        found.append(
            Check(
                f"{what}: Spearman, mean of boards",
                ">= 0.97",
                rank,
                mine["spearman"] >= 0.97,
                f"least {mine['least_spearman']:.3f}; board held out as well {other['spearman']:.3f}",
            )
        )
    pairs = sum(r["pairs"] for r in by_network.values())
    right = sum(r["sign"] * r["pairs"] for r in by_network.values()) / pairs
    found.append(
        Check(
            "ncnn: int8 faster or slower, right in sign",
            ">= 90 %",
            f"{100 * right:.0f} %",
            right >= 0.9,
            f"{pairs:.0f} pairs",
        )
    )
    return found


def points(truth: Path) -> list[Points]:
    """Predictions for the plots."""
    held = held_out(truth)
    found = []
    for core in CORES:
        mine = [h for h in held if h.board.core == core]
        found.append(
            Points(
                f"arm-cortex-{core.lower()}/ncnn",
                "latency, ms",
                tuple(h.network for h in mine),
                tuple(h.measured for h in mine),
                tuple(h.predicted for h in mine),
            )
        )
    return found


def write(truth: Path, folder: Path) -> None:
    """The kernel table of each core, for ncnn as of today."""
    found = table(read(truth), amounts(truth))
    for core in CORES:
        half = core in HALF
        cycles = found.of(Board("", core, 1.0, _NEW).shared)
        lines = [
            f"# Clock cycles of ncnn (since {_NEW}) on a Cortex-{core}, one thread: python -m lpcc.targets.fit.ncnn",
            "# Fitted to times of networks on boards: Tencent/ncnn benchmark (BSD-3-Clause)",
            "kernel,format,quantity,term,coefficient",
        ]
        merged: dict[tuple[str, str, str], float] = defaultdict(float)
        for row in ROWS:
            dtype = _INT8 if row.dtype == _INT8 else "float16" if half else "float32"
            value = cycles[NAMES.index(row.name)] * _unit(row, half=half)
            merged[row.kind, dtype, row.term] += float(value)
        lines += [f"{kind},{dtype},cycles,{term},{value:.4g}" for (kind, dtype, term), value in merged.items()]
        (folder / f"ncnn-{core.lower()}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write the tables and print how well they do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent.parent / "tables")
    chosen = parser.parse_args()
    write(chosen.truth, chosen.tables)
    for check in checks(chosen.truth):
        print(f"{'met   ' if check.met else 'MISSED'} {check.what}: {check.measured} ({check.asked}); {check.detail}")


if __name__ == "__main__":
    main()

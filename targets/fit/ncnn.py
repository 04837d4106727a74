"""Cost tables of ncnn on Cortex-A cores, from the times that its users measured.

A kernel's time is a sum of terms of its shape (multiply-accumulates, elements that are packed or transformed, weights,
activations that no cache holds, the call); coefficients of all boards are fitted at once (`lpcc.targets.fit.hierarchy`)
with levels for the number format of floats, the versions of ncnn (each time that its kernels were rewritten), the core
and the board. A target's table leaves the board's level out.

Held out by network: a network, float and int8, is left out of the fit on all boards; then four others that were
measured on a board adapt the core's table to it, as ``lpcc targets fit`` does, and the network is predicted. Held out
by device too: the fit sees nothing of that board either.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from lpcc.targets.fit.ncnn_rows import FLOAT, GROUP_OF, INDEX, INT8, NAMES, ROWS, START, Row, unit
from lpcc.targets.fit.networks.ncnn import networks

CORES = ("A53", "A55", "A72", "A76")
HALF = frozenset(["A55", "A76", "A78AE", "A720"])
"""Cores that compute in half precision."""
_ALSO = ("A57", "A73", "A78AE", "A720")  # further evidence for what cores share
_RENEWED = ("2022-06", "2023-03", "2023-10")
"""Months in which ncnn's kernels on Arm were rewritten: strategy of Winograd and fully connected layers (#3915, #3950);
Winograd and im2col in float (#4556, #4572); im2col and Winograd in int8 (#5016, #5087)."""
_CALIBRATE = (
    ("squeezenet", "mobilenet"),
    ("mobilenet_v3", "mobilenet_v2"),
    ("resnet50", "resnet18"),
    ("resnet18_int8", "squeezenet_int8"),
)
"""The networks that adapt a target to a board, each with the one that steps in where it is the one held out."""
_ASKED = {"A53": 0.70, "A72": 0.70, "A55": 0.55, "A76": 0.55}
_NEAR = 0.1


@dataclass(frozen=True)
class Board:
    """A board with a date: one core of it ran one thread."""

    name: str
    core: str
    ghz: float
    date: str

    @property
    def half(self) -> bool:
        """Whether it computes in half precision, and int8 by dot products."""
        return self.core in HALF

    @property
    def build(self) -> Build:
        """What decides which kernels run: half precision, and whether those of int8 were ncnn's present ones."""
        return self.half, self.half and self.date < _RENEWED[-1]

    @property
    def shared(self) -> tuple[Level, ...]:
        """What the board shares with others."""
        since = [date for date in _RENEWED if date <= self.date]
        return (
            Level("all", 0.35, 0.7, 0.0),
            Level(("half", self.half), 0.3, 0.8, 0.0),
            *(Level(("since", self.half, date), 0.2, 0.4, 0.0) for date in since),
            Level(("core", self.core), 0.15, 0.4, 0.5),
        )

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels of the board."""
        return (*self.shared, Level(("board", self.name, self.date), 0.0, 0.08, 0.25))


Build = tuple[bool, bool]
BUILDS: tuple[Build, ...] = ((False, False), (True, False), (True, True))
Times = Mapping[Board, Mapping[str, float]]
Work = Mapping[Build, Mapping[str, Floats]]


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


def amounts(truth: Path) -> dict[Build, dict[str, Floats]]:
    """Amount of each row of `ROWS` in each network, by `Board.build`."""
    models = networks(truth)
    found: dict[Build, dict[str, Floats]] = {build: {} for build in BUILDS}
    for name, model in models.items():
        graph = from_proto(model)
        annotate(graph)
        for half, before in BUILDS:
            steps = kernels(graph, None, "ncnn", ("aarch64", "neon", *(["dotprod", "fp16"] if half else [])))
            steps = tuple(map(_before, steps)) if before else steps
            found[half, before][name] = _amounts(steps, half=half)
    return found


def _before(kernel: Kernel) -> Kernel:
    """Until October 2023, int8 kernels of many channels ran by Winograd's algorithm on all cores."""
    loops = kernel.geometry
    window = (loops.kh, loops.kw, loops.sh, loops.sw)
    many = kernel.kind == "conv" and window == (3, 3, 1, 1) and min(loops.cin, loops.cout) >= 256
    return replace(kernel, kind="winograd") if many and kernel.dtype == "int8" else kernel


def _amounts(steps: Sequence[Kernel], *, half: bool) -> Floats:
    total = np.zeros(len(ROWS))
    for kernel in steps:
        dtype = INT8 if kernel.dtype == "int8" else FLOAT
        for index in _rows_of(kernel.kind, dtype):
            row = ROWS[index]
            total[index] += unit(row, half=half) * Term.parse(row.term)(kernel)
    return total


@cache
def _rows_of(kind: str, dtype: str) -> tuple[int, ...]:
    return tuple(i for i, row in enumerate(ROWS) if (row.kind, row.dtype) == (kind, dtype))


def _by_name(rows: Floats) -> Floats:
    return np.asarray(np.bincount(INDEX, rows, len(NAMES)), np.float64)


def table(times: Times, work: Work, without: str = "") -> Coefficients:
    """Coefficients of all levels, fitted to all networks but the family `without`."""
    samples = [
        Sample(_by_name(work[board.build][name]), board.levels, milliseconds * 1e6 * board.ghz)
        for board, measured in times.items()
        for name, milliseconds in measured.items()
        if name in work[BUILDS[0]] and family(name) != without
    ]
    return fit(samples, START, GROUP_OF)


def family(name: str) -> str:
    """A network in float and in int8 are one: neither helps to predict the other."""
    return name.removesuffix("_int8")


def parts(rows: Floats, cycles: Floats, ghz: float) -> dict[str, float]:
    """Predicted milliseconds of a network by the groups of ``lpcc.targets.fit.adapt``."""
    found: Counter[str] = Counter()
    for row, value in zip(ROWS, rows * cycles[INDEX] / ghz / 1e6, strict=True):
        if value > 0:
            found[_part(row)] += value
    return dict(found)


def _part(row: Row) -> str:
    dense = ("winograd", "conv", "pointwise", "gemm", "grouped")
    group = "dense" if row.kind in dense else "depthwise" if row.kind == "depthwise" else "elements"
    return f"{group} int8" if row.dtype == INT8 else group


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
    for name in sorted({family(n) for n in work[BUILDS[0]]}):
        whole = None if devices else table(times, work, name)
        for board, measured in times.items():
            rest = {other: value for other, value in times.items() if other.name != board.name}
            if board.core not in CORES or not any(family(n) == name for n in measured):
                continue
            cycles = (whole or table(rest, work, name)).of(board.shared)
            found += _predict(
                board, measured, {n: parts(work[board.build][n], cycles, board.ghz) for n in work[BUILDS[0]]}, name
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
        cycles = found.of(Board("", core, 1.0, _RENEWED[-1]).shared)
        lines = [
            f"# Clock cycles of ncnn since {_RENEWED[-1]} on a Cortex-{core}: python -m lpcc.targets.fit.ncnn",
            "# Fitted to times of networks on boards: Tencent/ncnn benchmark (BSD-3-Clause)",
            "kernel,format,quantity,term,coefficient",
        ]
        merged: dict[tuple[str, str, str], float] = defaultdict(float)
        for row in ROWS:
            dtype = INT8 if row.dtype == INT8 else "float16" if half else "float32"
            value = cycles[NAMES.index(row.name)] * unit(row, half=half)
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

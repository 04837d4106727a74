"""Microcontrollers: fits the kernel tables and the numbers of the Cortex-M targets, and checks them.

    python -m lpcc.targets.fit.mcu --truth FOLDER

writes targets/tables/cmsis-nn*.csv and x-cube-ai.csv, and prints what target files state: cycles per instruction,
bandwidth of the flash, the scale of each engine, power.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from lpcc.targets.fit.check import Check, Points
from lpcc.targets.fit.cortex_m import rates, tables
from lpcc.targets.fit.cortex_m.measured import BOARDS, Row, rows

Prediction = tuple[Row, float]
"""A measured row, and prediction over measurement less 1."""

_TARGETS = {
    "cmsis-nn on stm32l4r5": "arm-cortex-m4",
    "cmsis-nn on nrf5340": "nrf5340",
    "x-cube-ai 7.3 on stm32l4r5": "arm-cortex-m4/x-cube-ai",
    "x-cube-ai 7.3 on stm32u585": "arm-cortex-m33/x-cube-ai",
    "x-cube-ai 7.3 on stm32h7a3": "arm-cortex-m7/x-cube-ai",
    "x-cube-ai 7.3 on stm32h747": "stm32h747/x-cube-ai",
}
"""Which target stands for a system."""


def checks(truth: Path) -> list[Check]:
    """Latency by engine, held out by system and by network; energy, held out by network."""
    measured = rows(truth)
    by_system = list(held_out(measured, _system))
    by_network = list(held_out(measured, _network))
    return [
        _within("CMSIS-NN on a Cortex-M, latency", 15, _counted(by_system), "systems"),
        _within("CMSIS-NN on a Cortex-M, latency", 15, _counted(by_network), "networks"),
        _within("other engines on a Cortex-M, latency", 20, _others(by_system), "systems"),
        _within("other engines on a Cortex-M, latency", 20, _others(by_network), "networks"),
        replace(
            _within("energy of microcontrollers, measured latency times power", 20, list(energy(measured)), "networks"),
            asked="no number; within 20 % here",
            met=True,
        ),
    ]


def points(truth: Path) -> list[Points]:
    """Latency of the networks on a target, which is fitted to other systems."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    predictions = list(held_out(rows(truth), _system))
    for row, _ in predictions:
        measured[_system(row), row.network].append(row.milliseconds)
    for row, error in predictions:
        if (name := _TARGETS.get(_system(row))) is not None:
            handed_in = median(measured[_system(row), row.network])
            found[name][row.network.replace("|", " ")] = (handed_in, row.milliseconds * (1 + error))
    return [
        Points(
            name, "latency, ms", tuple(networks), *(tuple(values) for values in zip(*networks.values(), strict=True))
        )
        for name, networks in found.items()
    ]


def held_out(measured: Sequence[Row], group: Callable[[Row], str]) -> Iterator[Prediction]:
    """Each group of rows predicted by what was fitted to all others; rows whose engine those lack are left out."""
    for key in sorted({group(row) for row in measured}):
        rest = [row for row in measured if group(row) != key]
        known = {row.engine for row in rest}
        asked = [row for row in measured if group(row) == key and row.engine in known]
        if asked:
            fitted = rates.fit(rest)
            yield from ((row, fitted.cycles(row) / row.cycles - 1) for row in asked)


def energy(measured: Sequence[Row]) -> Iterator[Prediction]:
    """Energy as latency times the power that the other networks of the same system show.

    Across systems power says more about who measured: on one board ST finds 45 mW and Krai 75.
    """
    powered = [row for row in measured if row.microjoules]
    for row in powered:
        others = [other for other in powered if other.system == row.system and other.network != row.network]
        if others:
            yield row, _power(others) / _power([row]) - 1


def _power(measured: Sequence[Row]) -> float:
    """Median of milliwatts."""
    return median(row.microjoules / row.milliseconds for row in measured if row.microjoules)


def _system(row: Row) -> str:
    """The same engine on the same board is one system, whoever measured it."""
    return f"{row.engine} on {row.board.name}"


def _network(row: Row) -> str:
    """Widths and resolutions of one architecture count as the same network; so do MLPerf's and ST's of one name."""
    name = row.network.split("|")[0]
    same = {"ic": "ResNet v1", "vww": "MobileNet v1"}
    return same.get(name, " ".join(name.split(" ")[:2]))


def _counted(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [(row, error) for row, error in predictions if row.engine == "cmsis-nn"]


def _others(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [(row, error) for row, error in predictions if row.engine != "cmsis-nn"]


def _within(what: str, percent: int, predictions: Sequence[Prediction], group: str) -> Check:
    """Whether all predictions are as near as that; rows that several handed in count once."""
    distinct: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row, error in predictions:
        distinct[_system(row), row.network].append(abs(error))
    errors = [median(found) for found in distinct.values()]
    near = sum(error <= percent / 100 for error in errors)
    worst = max(distinct, key=lambda key: median(distinct[key]))
    detail = (
        f"other {group} fitted; median error {100 * median(errors):.1f} %, most {100 * max(errors):.0f} % on "
        f"{worst[1]}, {worst[0]}; rows left out: targets/fit/cortex_m/measured.py, and engines that nobody else has"
    )
    measured = f"{near} of {len(errors)} rows"
    return Check(what, f"within {percent} %", measured, near == len(errors), detail.replace("|", " "))


def main() -> None:
    """Write the tables, print the numbers of target files and the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="folder of the measurements")
    truth = parser.parse_args().truth
    folder = Path(__file__).parent.parent / "tables"
    measured = rows(truth)
    tables.write(folder, dict.fromkeys(rates.GROUPS, 1.0))  # the counted ones, which the fit reads
    rates.instruction_table.cache_clear()
    fitted = rates.fit(measured)
    tables.write(folder, fitted.factor)
    for board in BOARDS:
        cycles = fitted.core[board.core] * fitted.waits.get(board.name, 1.0)
        flash = board.mhz / 1e3 / fitted.flash[board.name] if board.name in fitted.flash else 0.0
        print(f"{board.name:14} {cycles:.3f} cycles per instruction, flash {flash:.3g} GB/s")
    for name, values in (("scale", fitted.scale), ("factor", fitted.factor)):
        print(f"{name} " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    powered = [row for row in measured if row.microjoules]
    for board_name in sorted({row.board.name for row in powered}):
        print(f"{board_name:14} {_power([row for row in powered if row.board.name == board_name]):.1f} mW")
    for check in checks(truth):
        print(f"{'met' if check.met else 'NOT MET':8}{check.what}: {check.measured} ({check.detail})")


if __name__ == "__main__":
    main()

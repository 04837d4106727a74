"""Counts the design of kernels, and the layers of networks that no fit sees, in the emulated runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import onnx

from lpcc.emulate.counts import Counts
from lpcc.emulate.emulator import Emulator, Machine
from lpcc.errors import ModelError
from lpcc.graph import from_proto
from lpcc.targets.fit.instructions import float_cases, integer_cases, networks
from lpcc.targets.fit.instructions.cases import Draft
from lpcc.targets.fit.instructions.counts import Row, kernel_of, write
from lpcc.targets.fit.instructions.layers import Layer, cut
from lpcc.targets.fit.instructions.matching import match

CPUS = {"armv8": "cortex-a72", "dotprod": "cortex-a76"}
"""The processor that stands for each instruction set."""

_CHAIN = 11


def measure(folder: Path, zoo: Path | None, emulator: Emulator, report: Callable[[str], None]) -> None:
    """Counts everything, and writes the design's and the networks' counts into `folder`. Takes a quarter of an hour."""
    with emulator.machine(CPUS["armv8"]) as plain, emulator.machine(CPUS["dotprod"]) as dot:
        machines = {"armv8": plain, "dotprod": dot}
        bases = {isa: base(machine) for isa, machine in machines.items()}
        write(
            folder / "onnxruntime-aarch64.csv", _design(machines, bases, report), _comment(plain, "the design of cases")
        )
        rows = _networks(networks.unseen(zoo), machines, bases, report)
        write(
            folder / "check-onnxruntime-aarch64.csv", rows, _comment(plain, "networks that no fit sees, layer by layer")
        )


def base(machine: Machine) -> Counts:
    """Instructions of a run besides its kernels: one kernel's count, less what one more in a chain adds."""
    for _ in range(8):
        machine.count_bound(_chain(1))  # Python learns what its instructions are used for, and becomes faster
    one, many = (machine.count_bound(_chain(length)) for length in (1, _CHAIN))
    each = {name: (many.classes[name] - one.classes[name]) / (_CHAIN - 1) for name in one.classes}
    return Counts({name: round(one.classes[name] - each[name]) for name in one.classes})


def _chain(length: int) -> onnx.ModelProto:
    draft = Draft()
    last = draft.input("x", (1,))
    for number in range(length):
        last = draft.node("Abs", [last], f"y{number}")
    return draft.model([last])


def _comment(machine: Machine, what: str) -> str:
    return (
        f"Executed instructions of the kernels of onnxruntime {machine.onnxruntime} for aarch64, emulated: {what}.\n"
        "mac: those that multiply and accumulate; other: all else. One warm run of a network of this kernel alone,\n"
        "less a run of none. armv8: Cortex-A53 and A72; dotprod: Cortex-A55 and A76, where integers differ.\n"
        "The rows `run` are what a run takes besides its kernels."
    )


def _less(counted: Mapping[str, Counts], bases: Mapping[str, Counts]) -> dict[tuple[str, str], float]:
    """Counts by instruction set and class, less the run itself."""
    found: dict[tuple[str, str], float] = {}
    for isa, counts in counted.items():
        found[isa, "mac"] = float(counts.mac - bases[isa].mac)
        found[isa, "other"] = float(counts.other - bases[isa].other)
    return found


def _design(
    machines: Mapping[str, Machine], bases: Mapping[str, Counts], report: Callable[[str], None]
) -> Iterator[Row]:
    run = {(isa, name): float(getattr(counts, name)) for isa, counts in bases.items() for name in ("mac", "other")}
    yield Row("run", kernel_of(_chain(1), "elementwise"), run)
    for case in chain(float_cases.cases(), integer_cases.cases()):
        sets = ("armv8",) if case.name.startswith("f32") else tuple(machines)
        counted = {isa: machines[isa].count_bound(case.executed) for isa in sets}
        report(case.name)
        kernel = replace(kernel_of(case.described, case.kind), blocked=case.last)
        yield Row(case.name, kernel, _less(counted, bases))


def _networks(
    models: Iterable[tuple[str, onnx.ModelProto]],
    machines: Mapping[str, Machine],
    bases: Mapping[str, Counts],
    report: Callable[[str], None],
) -> Iterator[Row]:
    """Of each network a row `network` with the count of all of it, then one for each kernel that is predicted."""
    for name, model in models:
        sets: tuple[str, ...] = ("armv8",) if name.endswith("float32") else tuple(machines)
        totals = {isa: machines[isa].count_bound(model) for isa in sets}
        yield Row("network", kernel_of(_chain(1), "elementwise"), _less(totals, bases), name)
        layers = list(cut(machines["armv8"].optimized(model)))
        for kernel, layer in match(layers, from_proto(model)):
            counted = dict(_counted(layer, machines, sets)) if layer else {}
            found = _less(counted, bases) if len(counted) == len(sets) else {}
            yield Row(layer.name if layer else "", kernel, found, name)
        report(name)


def _counted(layer: Layer, machines: Mapping[str, Machine], sets: Iterable[str]) -> Iterator[tuple[str, Counts]]:
    for isa in sets:
        try:
            yield isa, machines[isa].count_bound(layer.model)
        except ModelError:  # a node that does not load alone
            return

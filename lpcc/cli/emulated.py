"""``lpcc bench --on``: models on an emulated 64-bit Arm processor."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcc.cli.terminal import Terminal
from lpcc.equality import TOLERANCE
from lpcc.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx

    from lpcc.emulate import Check, Counts, Machine
    from lpcc.quality import Comparison
    from lpcc.runtime import Array

SAMPLES = 8
"""Of the user's data: enough to see a disagreement, few enough to be emulated in a minute."""


def processor(name: str) -> str:
    """The processor that `name` says: itself, or the core of the target of that name or file.

    Raises:
        UsageError: it is neither; the message lists the processors.
    """
    from lpcc.emulate import CPUS, cpu_named

    if name.lower() in CPUS:
        return name.lower()
    from lpcc.target import Target

    if name in Target.names() or name.endswith(".toml"):
        core = Target.load(name).core.name.lower()
        if core not in CPUS:
            raise UsageError(f"--on {name}: its core {core} cannot be emulated; those that can: {', '.join(CPUS)}")
        return core
    return cpu_named(name).name


def emulated(
    cpu: str,
    models: Sequence[tuple[Path, onnx.ModelProto]],
    samples: Sequence[Mapping[str, Array]],
    terminal: Terminal,
) -> None:
    """Run one model, or two, on an emulated processor and on this host, and tell how they agree and what they execute.

    Raises:
        UsageError: there is no emulator.
        ModelError: a model does not run, here or there; the message names it.
    """
    from lpcc.emulate import Emulator, check, ratios

    emulator = Emulator.find()
    missing = ""
    try:
        machine = emulator.machine(cpu)
    except UsageError as error:
        machine, missing = emulator.plain_machine(cpu), str(error)
    checks: list[tuple[Path, Check]] = []
    with machine, terminal.progress() as step:
        for place, (path, model) in enumerate(models):
            step("emulating", place, len(models))
            try:
                checks.append((path, check(machine, model, samples)))
            except ModelError as error:
                raise ModelError(f"{path}: {error}") from error
    result: dict[str, Any] = {
        "cpu": cpu,
        "onnxruntime": machine.onnxruntime,
        "samples": len(samples),
        "inputs": {name: list(x.shape) for name, x in samples[0].items()},
    }
    for key, (path, one) in zip("ab", checks, strict=False):
        result[key] = {"model": str(path), **one.to_json()}
    counts = [one.counts for _, one in checks if one.counts is not None]
    if len(counts) == 2:
        result["ratio"] = ratios(*counts)
    terminal.write_json(result)
    terminal.show(_lines(machine, checks, counts, missing, terminal.width))


def _lines(
    machine: Machine, checks: Sequence[tuple[Path, Check]], counts: Sequence[Counts], missing: str, width: int
) -> Iterator[str | tuple[str, str]]:
    yield (f"{machine.cpu.name}, emulated, onnxruntime {machine.onnxruntime}, one thread", "bold")
    for path, one in checks:
        yield from textwrap.wrap(f"{path}: {_agreement(one.agreement)}", width, subsequent_indent="  ")
        if one.kernels is not None and one.agreement.worst_relative_error > TOLERANCE:
            same = _agreement(one.kernels)
            text = f"there onnxruntime makes another graph of it; that one, on this host: {same}"
            yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    if missing:
        yield from textwrap.wrap(f"instructions not counted: {missing}", width, subsequent_indent="  ")
    if counts:
        yield ""
        yield from _table([path for path, _ in checks], counts, width)
    if len(counts) == 2:
        yield ""
        yield (f"B / A: {counts[1].total / counts[0].total:.3f} of the instructions", "bold")


def _agreement(found: Comparison) -> str:
    """How the emulated outputs agree with this host's, in words."""
    if not found.sqnr_db:
        return "no outputs that can be compared"
    if found.worst_relative_error == 0:
        return f"same outputs as here, bit for bit, {_samples(found.samples)}"
    choice = "" if found.agreement is None else f", same first class in {found.agreement:.4g} %"
    return (
        f"outputs within {found.worst_relative_error:.1e} of those here, "
        f"{found.worst_sqnr_db:.1f} dB{choice}, {_samples(found.samples)}"
    )


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _table(paths: Sequence[Path], counts: Sequence[Counts], width: int) -> Iterator[str | tuple[str, str]]:
    """Millions of instructions by class, and the ratio where there are two models."""
    from lpcc.report.table import Column, table

    def row(name: str, numbers: Sequence[int]) -> list[str]:
        ratio = [] if len(numbers) == 1 else [f"{numbers[1] / numbers[0]:.3f}" if numbers[0] else ""]
        return [name, *(f"{number / 1e6:,.3f}" for number in numbers), *ratio]

    rows = [
        row("all", [one.total for one in counts]),
        row("multiply-accumulate", [one.mac for one in counts]),
        row("other", [one.other for one in counts]),
    ]
    for name in counts[0].classes:
        numbers = [one.classes[name] for one in counts]
        if any(numbers):
            rows.append(row(f"  {name}", numbers))
    names = [path.name for path in paths] if len(counts) == 1 else [f"A {paths[0].name}", f"B {paths[1].name}", "B / A"]
    title, *body = table([Column("million instructions"), *(Column(name, right=True) for name in names)], rows, width)
    yield (title, "bold")
    yield from body

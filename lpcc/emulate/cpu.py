"""The processors that can be emulated."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from lpcc.errors import UsageError


@dataclass(frozen=True)
class Cpu:
    """A processor as the emulator knows it: its instruction set, not its timing."""

    name: str
    qemu: str
    """What qemu-aarch64's option ``-cpu`` takes."""
    note: str


CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a53", "cortex-a53", "Armv8.0, no dot product"),
        Cpu("cortex-a55", "cortex-a76", "Armv8.2 with dot product: the A76 stands for its instruction set"),
        Cpu("cortex-a72", "cortex-a72", "Armv8.0, no dot product"),
        Cpu("cortex-a76", "cortex-a76", "Armv8.2 with dot product and half precision"),
        Cpu("neoverse-n1", "neoverse-n1", "Armv8.2 with dot product and half precision"),
        Cpu("max", "max,sve=off", "all that the emulator has but scalable vectors: int8 matrix products too"),
    )
}


def cpu_named(name: str) -> Cpu:
    """The processor of that name, in any case.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    found = CPUS.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), CPUS, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise UsageError(f"--on {name}: no such processor{hint} known are {', '.join(CPUS)}")
    return found

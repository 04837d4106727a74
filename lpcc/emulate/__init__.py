"""The real onnxruntime for 64-bit Arm, emulated on this machine: outputs, optimised graphs, counts of instructions.

Counts by class repeat within 0.03 % whatever else the machine does, and predict real devices; the emulator's time says
nothing. docs/emulation.md tells what counts mean, how they were checked and where they end.
"""

from __future__ import annotations

from lpcc.emulate.check import Check, check, ratios
from lpcc.emulate.counts import CLASSES, MAC_CLASSES, Counts, KernelTally, Tally
from lpcc.emulate.cpu import CPUS, Cpu, cpu_named
from lpcc.emulate.emulator import Emulator, Machine
from lpcc.emulate.folder import Folder

__all__ = [
    "CLASSES",
    "CPUS",
    "MAC_CLASSES",
    "Check",
    "Counts",
    "Cpu",
    "Emulator",
    "Folder",
    "KernelTally",
    "Machine",
    "Tally",
    "check",
    "cpu_named",
    "ratios",
]

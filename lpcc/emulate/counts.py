"""Executed instructions by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAC_CLASSES = ("fp_mac", "dot", "mmla", "int_mac")
"""Classes whose instructions multiply and accumulate."""

CLASSES = (
    *MAC_CLASSES,
    "fp_div",
    "fp",
    "simd",
    "vector_load",
    "vector_store",
    "load",
    "store",
    "branch",
    "scalar",
    "sve",
)
"""All classes, in the order of the counting plugin; its source (a64.h) says what belongs to each."""


_FIXED_TEXT = 4
"""What the profiler writes of every kernel, in tensors: 12 to 13 thousand instructions, where a tensor of rank 4 takes
3 to 4 thousand."""


@dataclass(frozen=True)
class Tally:
    """Instructions by class."""

    classes: Mapping[str, int]

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self.classes.values())

    @property
    def mac(self) -> int:
        """Instructions that multiply and accumulate: of floats, of integers, dot products, matrix products."""
        return sum(self.classes.get(name, 0) for name in MAC_CLASSES)

    @property
    def other(self) -> int:
        """All that do not."""
        return self.total - self.mac

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {"total": self.total, "mac": self.mac, "other": self.other, "classes": dict(self.classes)}


@dataclass(frozen=True)
class KernelTally(Tally):
    """Instructions of one kernel in a run of a network."""

    name: str
    """The node's, in the graph that onnxruntime made of the model (`Emulator.optimized` gives it)."""
    op: str
    """The operator's type: ``Conv``, ``QLinearConv``, ``ReorderInput``."""


@dataclass(frozen=True)
class Counts(Tally):
    """Instructions of one warm run of a model."""

    kernels: tuple[KernelTally, ...] = ()
    """Each kernel in the order of running, where asked for."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        kernels = [{"name": k.name, "op": k.op, **k.to_json()} for k in self.kernels]
        return super().to_json() | ({"kernels": kernels} if kernels else {})


def without_profiler(kernels: Sequence[Tally], tensors: Sequence[int], total: Tally, idle: Tally) -> list[Tally]:
    """Counts of kernels under the profiler, less what the profiler itself did in them.

    That is the excess, class by class, of all of them over `total`, an ordinary run, less `idle`, a run of next to
    nothing. It is shared out by what the profiler writes: of each kernel some fixed text, and the types and shapes of
    its `tensors`.
    """
    weights = [_FIXED_TEXT + number for number in tensors]
    corrected: list[dict[str, int]] = [{} for _ in kernels]
    for name in total.classes:
        excess = sum(kernel.classes[name] for kernel in kernels) - (total.classes[name] - idle.classes[name])
        for kernel, weight, found in zip(kernels, weights, corrected, strict=True):
            share = excess * weight / sum(weights)
            found[name] = max(0, round(kernel.classes[name] - max(share, 0)))
    return [Tally(found) for found in corrected]


def parse_line(line: str, classes: Sequence[str] = CLASSES) -> tuple[str, Tally]:
    """A line of the counting plugin: its mark and the counts."""
    mark, *numbers = line.split()
    return mark, Tally(dict(zip(classes, map(int, numbers), strict=True)))

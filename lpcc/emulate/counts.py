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


def parse_line(line: str, classes: Sequence[str] = CLASSES) -> tuple[str, Tally]:
    """A line of the counting plugin: its mark and the counts."""
    mark, *numbers = line.split()
    return mark, Tally(dict(zip(classes, map(int, numbers), strict=True)))

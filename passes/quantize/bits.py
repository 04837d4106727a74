"""How many bits each layer is given: the option `bits` of `quantize`, in words and as numbers.

An assignment is a layer, ``=`` and a choice: ``conv1=4``. Choices are ``float``, ``16`` and a width of 8, 4 or 2 bits
for each weight; ``4+8:25%`` keeps a quarter of the output channels in 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import onnx_graphsurgeon as gs

from lpcc.passes.normalize import RaiseOpset
from lpcc.pipeline import Context

WeightBits = Literal[2, 4, 8]

OPSETS: Final = {2: 25, 4: 21, 8: 13}
"""By bits of a weight: the first opset of ONNX with such integers, and with what turns them into those of kernels."""

_CHOICE = re.compile(r"(?P<bits>[248])(\+8:(?P<wide>\d{1,3}(\.\d+)?)%)?")


@dataclass(frozen=True)
class Width:
    """Bits of a layer's numbers. `wide` is the share of its output channels whose weights keep 8 bits.

    `activations` are the bits of what the layer reads.
    """

    bits: int = 8
    wide: float = 0.0
    activations: int = 8

    def __str__(self) -> str:
        if self.activations == 16:
            return "16"
        return f"{self.bits}+8:{100 * self.wide:g}%" if self.wide else str(self.bits)

    def average(self, channels: int) -> float:
        """Bits of a weight on average, in a layer of so many output channels."""
        wide = wide_channels(self, channels) / channels if channels else 0.0
        return 8 * wide + self.bits * (1 - wide)

    @property
    def opset(self) -> int:
        """The first opset that can express it."""
        return max(OPSETS[self.bits], 21 if self.activations == 16 else 0)


@dataclass(frozen=True)
class Formats:
    """Which nodes compute in 16 bits, and which only convert between 8 and 16, by name; `wide` has some of the latter.

    The names of nodes hold for copies of the graph as well.
    """

    wide: frozenset[str] = frozenset()
    converts: frozenset[str] = frozenset()


FLOAT: Final = "float"


def parse_choice(text: str) -> Width | None:
    """The width that a choice names; None for ``float``.

    Raises:
        ValueError: it is no choice.
    """
    if text == FLOAT:
        return None
    if text == "16":
        return Width(activations=16)
    found = _CHOICE.fullmatch(text)
    share = float(found["wide"] or 0) / 100 if found else 0.0
    if found is None or share > 1 or (found["wide"] and found["bits"] == "8"):
        raise ValueError(f"`{text}` is no choice of bits: known are 2, 4, 8, 16, float and 4+8:25% with any share")
    return Width(int(found["bits"]), share)


def parse_bits(assignments: Iterable[str]) -> dict[str, Width | None]:
    """The widths by name of a layer, None for those that stay in float; of two for one layer the last counts.

    The last ``=`` ends the name, which may hold others.

    Raises:
        ValueError: an assignment is none.
    """
    widths: dict[str, Width | None] = {}
    for text in assignments:
        name, equals, choice = text.rpartition("=")
        if not equals or not name:
            raise ValueError(f'`{text}` in `bits` names no layer: write it as "layer=4"')
        widths[name] = parse_choice(choice)
    return widths


def format_choices(choices: Mapping[str, str]) -> tuple[str, ...]:
    """The assignments of choices to layers, as the option takes them."""
    return tuple(f"{name}={choice}" for name, choice in choices.items())


def raised(graph: gs.Graph, opset: int, ctx: Context) -> str | None:
    """Raise the opset of a graph to `opset` where it is lower; the reason where that cannot be."""
    found = RaiseOpset(to=opset).run(graph, ctx)
    if not found.refused:
        return None
    first = found.refused[0]
    return f"such integers need opset {opset}, and `{first.node}` is in the way: {first.reason}"


def with_weights(width: Width | None) -> str:
    """What is to be said of a layer's weights, after that it computes in integers."""
    return "" if width is None or width.activations == 16 else f" with weights of {width} bits"


def wide_channels(width: Width, channels: int) -> int:
    """How many of a layer's output channels keep 8 bits: the share, rounded up."""
    return min(channels, math.ceil(width.wide * channels - 1e-9))  # 0.07 * 100 is a little more than 7

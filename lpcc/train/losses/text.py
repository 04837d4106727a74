"""Losses and their text form, both ways: ``kd``, ``kd+hint``, ``kd*0.7+hint*0.1``, ``kd{temperature=8}+order``.

    losses := part (("+" | ",") part)*
    part   := name ["{" option (" " option)* "}"] ["*" weight]

with names and options as passes have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lpcc.errors import UsageError
from lpcc.pipeline.syntax import ItemParser
from lpcc.train.losses.base import Loss
from lpcc.train.losses.layers import Attention, Correlation, Features, Hints
from lpcc.train.losses.order import Order
from lpcc.train.losses.outputs import Automatic, HardLabels, Logits, Outputs, SoftTargets, TeacherLabels

LOSSES: tuple[type[Loss], ...] = (
    Automatic,
    SoftTargets,
    HardLabels,
    Logits,
    TeacherLabels,
    Outputs,
    Hints,
    Features,
    Attention,
    Correlation,
    Order,
)
"""All losses, those on outputs first."""

_BY_NAME: Mapping[str, type[Loss]] = {loss.name: loss for loss in LOSSES}


@dataclass(frozen=True)
class Part:
    """A loss and its weight in a sum; None is the loss's own."""

    loss: Loss
    given: float | None = None

    @property
    def weight(self) -> float:
        """The weight that counts."""
        return self.loss.weight if self.given is None else self.given

    def __str__(self) -> str:
        return str(self.loss) if self.given is None else f"{self.loss}*{self.given:g}"


def parse(text: str | Sequence[str | Loss | Part]) -> tuple[Part, ...]:
    """The parts of a sum of losses, from their text form, or several of these, or losses themselves.

    Raises:
        UsageError: the text is none; the message points at the column and lists what is known.
    """
    if isinstance(text, str):
        return _Parser(text).parts()
    found: list[Part] = []
    for item in text:
        if isinstance(item, str):
            found += _Parser(item).parts()
        else:
            found.append(Part(item) if isinstance(item, Loss) else item)
    if not found:
        raise UsageError("no loss is given; `auto` follows the teacher's outputs")
    return tuple(found)


def format_losses(parts: Sequence[Part]) -> str:
    """Text form of a sum of losses."""
    return "+".join(str(part) for part in parts)


class _Parser(ItemParser):
    item_is: ClassVar[str] = "loss"
    whole: ClassVar[str] = "losses"
    special: ClassVar[frozenset[str]] = ItemParser.special | {"+", "*"}

    def parts(self) -> tuple[Part, ...]:
        found = [self.part()]
        while self.at < len(self.text):
            if self.peek() == ",":
                self.at += 1
            else:
                self.expect("+")
            found.append(self.part())
        return tuple(found)

    def part(self) -> Part:
        start = self.at
        loss: Loss = self.one_of(_BY_NAME, start, self.word("the name of a loss"))
        if self.peek() != "*":
            return Part(loss)
        self.at += 1
        start = self.at
        text = self.word("a weight")
        try:
            weight = float(text)
        except ValueError:
            weight = -1.0
        if not 0 < weight <= _MOST:
            raise self.error(
                start, f"the weight of `{loss.name}` is a number above 0 and up to {_MOST:g}, not `{text}`"
            )
        return Part(loss, weight)


_MOST = 1e5

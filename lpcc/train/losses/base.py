"""What a loss is: a frozen dataclass whose fields are its options, bound to two networks before it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lpcc.errors import UsageError
from lpcc.pipeline.syntax import format_options
from lpcc.train.losses.endings import Ending, Kind, Reading, Values
from lpcc.train.pairing import Pairing

LEAST = 1e-12
"""What a divisor is at least: where a teacher is silent, nothing is to be followed."""


@dataclass(frozen=True)
class Setting:
    """What a loss is bound to: how the networks end, which layers pair, and the values of all that on one batch."""

    endings: tuple[Ending, ...]
    pairing: Pairing
    student: Values
    teacher: Values
    labelled: bool
    """Whether the batches will come with labels."""


class Term(nn.Module, ABC):
    """A loss bound to a pair of networks: called with the tensors of both and the labels, it gives a scalar.

    `student_taps` and `teacher_taps` name the tensors that it reads. Its parameters are trained with the student and
    thrown away.
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:
        """The loss of a batch."""


@dataclass(frozen=True)
class Loss(ABC):
    """How far a student is from what it is to learn. Zero or more; fields are options, class variables the contract.

    Losses on layers and on numbers are divided by what there is to be learned: 1 means that the student knows nothing
    of it, in whatever unit. So weights mean the same in every network. Those that are not given, `weight`, are set so
    that the parts of a sum pull on a student's weights with forces of one size (measured on a ResNet-20 with half its
    channels, before and after some epochs).
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    """The weight in a sum where none is given."""
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False

    @abstractmethod
    def bind(self, setting: Setting) -> Term:
        """The loss on a pair of networks.

        Raises:
            UsageError: the networks do not have what it compares.
        """

    def __str__(self) -> str:
        return self.name + format_options(self)


@dataclass(frozen=True)
class OutputLoss(Loss):
    """A loss on what the networks give: the mean over the endings that suit it, by default those that are scores."""

    def bind(self, setting: Setting) -> Term:
        """Takes the endings that suit."""
        found = [ending for ending in setting.endings if self.suits(ending, setting)]
        if not found:
            raise UsageError(
                f"loss `{self.name}` compares scores of classes, and no output of this network is such; "
                "`auto` and `outputs` follow any output"
            )
        return OutputTerm(self, found, setting)

    @abstractmethod
    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:
        """The loss on one ending, a scalar."""

    def suits(self, ending: Ending, setting: Setting) -> bool:  # noqa: ARG002
        """Whether this loss compares such an ending."""
        return ending.kind is not Kind.NUMBERS

    def reads(self, ending: Ending) -> tuple[str, str]:
        """The tensors that `ending` reads, of student and teacher."""
        return ending.student.scores, _teacher(ending).scores

    def divisor(self, ending: Ending, setting: Setting) -> float:  # noqa: ARG002
        """What the loss on an ending is divided by, once and for all from one batch of the teacher's."""
        return 1.0


class OutputTerm(Term):
    """The mean of an `OutputLoss` over endings."""

    def __init__(self, loss: OutputLoss, endings: Iterable[Ending], setting: Setting) -> None:
        super().__init__()
        self.loss = loss
        self.endings = tuple(endings)
        reads = [loss.reads(ending) for ending in self.endings]
        self.student_taps = tuple(ours for ours, _ in reads)
        self.teacher_taps = tuple(theirs for _, theirs in reads) if loss.needs_teacher else ()
        like = next(iter(setting.student.values()))
        divisors = [loss.divisor(ending, setting) for ending in self.endings]
        self.register_buffer("divisors", torch.tensor(divisors, device=like.device))

    def forward(self, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:
        """The mean over the endings."""
        parts = [self.loss.ending(ending, student, teacher, labels) for ending in self.endings]
        return sum(part / divisor for part, divisor in zip(parts, self.divisors, strict=True)) / len(parts)


def _teacher(ending: Ending) -> Reading:
    return ending.student if ending.teacher is None else ending.teacher

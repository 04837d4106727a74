"""What training makes small: a weighted sum of losses on one student and its teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lpcc.errors import ModelError, UsageError
from lpcc.train.losses.base import Loss, Setting, Term
from lpcc.train.losses.endings import Values, endings, settled
from lpcc.train.losses.outputs import Automatic
from lpcc.train.losses.text import Part, format_losses, parse
from lpcc.train.pairing import Pairing, given_pairs, pair_layers
from lpcc.train.pairing.observing import observed

if TYPE_CHECKING:
    from lpcc.train.network import Network

Array = np.ndarray[Any, Any]


class Objective(nn.Module):
    """A weighted sum of losses on one student and its teacher.

    `student_taps` and `teacher_taps` are the hidden tensors that both must give beside their outputs. `pairing` says
    which layers pair and why, `chosen` what `auto` took for each output (nothing without `auto`). Parameters, where
    there are any, are regressors: they are trained with the student and thrown away. Losses are scaled by what there is
    to be learned, so that those without a weight of their own are in balance; nothing here is random.
    """

    def __init__(self, parts: Sequence[Part], setting: Setting) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.pairing = setting.pairing
        self.names = _names(self.parts)
        self.terms = nn.ModuleList(part.loss.bind(setting) for part in self.parts)
        terms: list[Term] = list(self.terms)
        self.student_taps = tuple(dict.fromkeys(tap for term in terms for tap in term.student_taps))
        self.teacher_taps = tuple(dict.fromkeys(tap for term in terms for tap in term.teacher_taps))
        self.chosen = next((p.loss.chosen(setting) for p in self.parts if isinstance(p.loss, Automatic)), {})

    @classmethod
    def of(
        cls,
        losses: str | Sequence[str | Loss | Part],
        student: Network,
        teacher: Network | None,
        feeds: Mapping[str, Tensor | Array],
        *,
        pairs: str | Sequence[str] | None = None,
        labels: bool = False,
    ) -> Objective:
        """The objective of a student and a teacher with the same outputs, in the text form of `lpcc.train.losses.text`.

        `feeds` is one batch, by which layers are paired, regressors begin and outputs are scaled. `pairs` gives the
        layers that learn from each other, ``student_tensor=teacher_tensor,...``; None finds them. `labels` says whether
        batches will have any.

        Raises:
            UsageError: a loss or pair is unknown, or needs what is not there: a teacher, labels, scores of classes,
                layers of equal width.
            ModelError: student and teacher do not have the same outputs.
        """
        parts = parse(losses)
        for part in parts:
            if part.loss.needs_teacher and teacher is None:
                raise UsageError(
                    f"loss `{part.loss.name}` learns from a teacher, and there is none: give one, or use `hard`"
                )
        if pairs is not None and not any(part.loss.needs_pairs for part in parts):
            raise UsageError(f"pairs are given, and none of the losses {format_losses(parts)} compares layers")
        batch = _tensors(feeds, student)
        _require_outputs(student, teacher)
        ends = endings(student.graph, None if teacher is None else teacher.graph)
        pairing = Pairing()
        if teacher is not None and any(part.loss.needs_pairs for part in parts):
            found = pair_layers if pairs is None else partial(given_pairs, pairs)
            pairing = found(student, teacher, batch)
        ours = [t for end in ends for t in (end.student.tensor, end.student.scores)]
        theirs = [pair.teacher for pair in pairing.pairs]
        theirs += [t for end in ends if end.teacher is not None for t in (end.teacher.tensor, end.teacher.scores)]
        seen = observed(student, batch, [*ours, *(pair.student for pair in pairing.pairs)])
        taught = {} if teacher is None else observed(teacher, batch, theirs)
        ends = settled(ends, seen, taught)
        return cls(parts, Setting(ends, pairing, seen, taught, labels))

    def forward(
        self, student: Values, teacher: Values, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum for a batch, and its parts by name before their weights.

        `student` and `teacher` hold outputs and taps by name; `teacher` may be empty where no part needs it.
        """
        found = {name: term(student, teacher, labels) for name, term in zip(self.names, self.terms, strict=True)}
        weights = (part.weight for part in self.parts)
        total = sum(weight * value for weight, value in zip(weights, found.values(), strict=True))
        return total, {name: value.detach() for name, value in found.items()}

    def __str__(self) -> str:
        return format_losses(self.parts)


def _names(parts: Sequence[Part]) -> tuple[str, ...]:
    """A name for each part: its loss's, with the options where there are several of one loss."""
    plain = Counter(part.loss.name for part in parts)
    names = [part.loss.name if plain[part.loss.name] == 1 else str(part.loss) for part in parts]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"loss `{twice}` is given twice")
    return tuple(names)


def _require_outputs(student: Network, teacher: Network | None) -> None:
    if teacher is None:
        return
    sides = (("student", student, teacher), ("teacher", teacher, student))
    for who, network, other in sides:
        known = {t.name for t in network.graph.outputs}
        lacking = next((t.name for t in other.graph.outputs if t.name not in known), None)
        if lacking is not None:
            raise ModelError(f"the {who} has no output `{lacking}`; student and teacher must have the same outputs")


def _tensors(feeds: Mapping[str, Tensor | Array], student: Network) -> dict[str, Tensor]:
    device = next(iter(student.parameters()), torch.zeros(0)).device
    copied = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in feeds.items()}
    return {name: value.to(device) for name, value in copied.items()}

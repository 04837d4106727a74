"""Losses on what networks give: scores of classes, flags, numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lpcc.errors import DataError, UsageError
from lpcc.pipeline.base import Range
from lpcc.train.losses.base import LEAST, Loss, OutputLoss, OutputTerm, Setting, Term
from lpcc.train.losses.endings import Ending, Kind, Values

_NOTHING = "no output of this network can be followed: none is of floating-point numbers"
_MATRIX = 2
_SURE = 0.0
"""The score from which on a flag is more likely than not."""


@dataclass(frozen=True)
class SoftTargets(OutputLoss):
    """Soft targets: the student gives the teacher's probabilities, softened by a temperature T.

        L = T^2 mean_rows KL(softmax(t / T) || softmax(s / T))

    with the scores t of the teacher and s of the student before their softmax; a row is a sample, a pixel or an anchor.
    The factor T^2 keeps gradients at their size when T changes. Of flags (scores before a sigmoid) each is a choice
    between two: L = T^2 mean_rows sum_c KL(Bernoulli(sigmoid(t_c / T)) || Bernoulli(sigmoid(s_c / T))). Where no
    softmax is found and an output holds probabilities, their logarithms are the scores.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. Their cross-entropy differs from the
    divergence by the teacher's entropy, which no student changes.
    """

    name: ClassVar[str] = "kd"
    temperature: Annotated[float, Range(0.1, 100)] = 4.0
    """T, without unit: 1 compares the probabilities themselves, more brings out those of the unlikely classes."""

    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The divergence, by kind of ending."""
        ours = ending.student.rows(student) / self.temperature
        theirs = ending.of_teacher.rows(teacher) / self.temperature
        if ending.kind is Kind.FLAGS:
            likely = theirs.sigmoid()
            yes = likely * (functional.logsigmoid(theirs) - functional.logsigmoid(ours))
            no = (1 - likely) * (functional.logsigmoid(-theirs) - functional.logsigmoid(-ours))
            divergence = (yes + no).sum(-1)
        else:
            logs = theirs.log_softmax(-1)
            divergence = (logs.exp() * (logs - ours.log_softmax(-1))).sum(-1)
        return self.temperature**2 * divergence.mean()


@dataclass(frozen=True)
class HardLabels(OutputLoss):
    """The truth: cross-entropy with the labels of the data, needing no teacher.

        L = - mean_rows sum_c q_c log softmax(s)_c,    q = (1 - a) onehot(label) + a / C

    with the smoothing a over C classes. Labels are whole numbers, one for each row (sample or pixel; negative ones are
    passed over), or distributions q as float (rows, C). Of flags, each has its binary cross-entropy with q_c.

    Smoothing: Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, 2016.
    """

    name: ClassVar[str] = "hard"
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    smoothing: Annotated[float, Range(0, 0.9)] = 0.0
    """a: the share of probability that is spread over all classes."""

    def bind(self, setting: Setting) -> Term:
        """Needs labels."""
        if not setting.labelled:
            raise UsageError(
                f"loss `{self.name}` needs labels: let those of the data count, or learn from the teacher with `kd`"
            )
        return super().bind(setting)

    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The cross-entropy, by kind of ending."""
        if labels is None:
            raise DataError(f"loss `{self.name}` needs labels, and a batch has none")
        rows = ending.student.rows(student)
        return _cross_entropy(ending, rows, _targets(ending, rows, labels), self.smoothing)


@dataclass(frozen=True)
class TeacherLabels(OutputLoss):
    """Knowledge transfer: the student is trained on the classes that the teacher gives, as if they were the truth.

        L = - mean_rows log softmax(s)_k,    k = argmax_c t_c

    Of flags, each has its binary cross-entropy with the teacher's decision. The labels say nothing of how sure the
    teacher is; use `kd` unless that is wanted.

    Bucila, Caruana, Niculescu-Mizil: Model Compression, 2006; Ba, Caruana: Do Deep Nets Really Need to be Deep?, 2014.
    """

    name: ClassVar[str] = "labels"

    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The cross-entropy with the teacher's choice."""
        rows, theirs = ending.student.rows(student), ending.of_teacher.rows(teacher)
        chosen = (theirs > _SURE).to(rows.dtype) if ending.kind is Kind.FLAGS else theirs.argmax(-1)
        return _cross_entropy(ending, rows, chosen, 0.0)


@dataclass(frozen=True)
class Logits(OutputLoss):
    """Regression of the scores before the softmax.

        L = 1/2 mean_rows mean_c (s'_c - t'_c)^2,    x' = x - mean_c x

    A constant added to all scores changes no probability, so each row is taken without its mean; flags, of which that
    is not so, are taken as they are. This is what `kd` tends to as its temperature grows, so both weigh alike.

    Ba, Caruana: Do Deep Nets Really Need to be Deep?, 2014 (equation 1).
    """

    name: ClassVar[str] = "logits"

    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """Half the mean squared difference."""
        gap = ending.student.rows(student) - ending.of_teacher.rows(teacher)
        if ending.kind is Kind.CLASSES:
            gap = gap - gap.mean(-1, keepdim=True)
        return 0.5 * gap.square().mean()


@dataclass(frozen=True)
class Outputs(OutputLoss):
    """Regression of the outputs themselves, whatever they say: boxes, depths, images, probabilities.

        L = mean_outputs mean((s - t)^2) / Var(t)

    The variance of the teacher's output, over all its elements on one batch, makes outputs of any unit weigh alike: a
    student that gives the teacher's mean has a loss of 1. Outputs joined from scores and others count in their parts.

    Squared error on the outputs of a teacher: Ba, Caruana, 2014; for boxes: Chen et al.: Learning Efficient Object
    Detection Models with Knowledge Distillation, 2017 (without their bound by the truth, which needs labels).
    """

    name: ClassVar[str] = "outputs"
    weight: ClassVar[float] = 10.0

    def bind(self, setting: Setting) -> Term:
        """Takes all outputs of floating-point numbers."""
        found = [ending for ending in setting.endings if self.suits(ending, setting)]
        if not found:
            raise UsageError(_NOTHING)
        return OutputTerm(self, found, setting)

    def ending(self, ending: Ending, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The mean squared difference."""
        gap = ending.student.numbers(student) - ending.of_teacher.numbers(teacher)
        return gap.square().mean()

    def suits(self, ending: Ending, setting: Setting) -> bool:
        """Any but whole numbers, such as chosen classes."""
        return setting.student[ending.student.tensor].is_floating_point()

    def reads(self, ending: Ending) -> tuple[str, str]:
        """The outputs, not the scores behind them."""
        return ending.student.tensor, ending.of_teacher.tensor

    def divisor(self, ending: Ending, setting: Setting) -> float:
        """The variance of what the teacher gives on the first batch; its mean square, should it give a constant."""
        given = ending.of_teacher.numbers(setting.teacher).double()
        variance, energy = given.var(correction=0).item(), given.square().mean().item()
        return max(variance if variance > LEAST * energy else energy, LEAST)


@dataclass(frozen=True)
class Automatic(Loss):
    """The loss that suits each output: chosen by how the network ends.

    * a softmax, or scores of classes without one, for samples, pixels or anchors: `kd`;
    * sigmoids of samples (N, C): `kd` on each flag;
    * anything else, such as boxes, depths, images and grids of flags: `outputs`.

    The mean over all of them, each with the weight that is its own. An output that is joined from several has the loss
    of each part.
    """

    name: ClassVar[str] = "auto"
    temperature: Annotated[float, Range(0.1, 100)] = 4.0
    """That of `kd`."""

    def bind(self, setting: Setting) -> Term:
        """Chooses for each ending."""
        soft, plain = SoftTargets(temperature=self.temperature), Outputs()
        by_loss: dict[OutputLoss, list[Ending]] = {soft: [], plain: []}
        for ending in setting.endings:
            by_loss[soft if _by_probability(ending, setting.student) else plain].append(ending)
        terms = [OutputTerm(loss, endings, setting) for loss, endings in by_loss.items() if endings]
        if not terms:
            raise UsageError(_NOTHING)
        return MeanTerm(terms)

    def chosen(self, setting: Setting) -> dict[str, str]:
        """For each output the losses chosen, as text, for the report."""
        by_output: dict[str, list[str]] = {}
        for ending in setting.endings:
            name = SoftTargets.name if _by_probability(ending, setting.student) else Outputs.name
            by_output.setdefault(ending.output, []).append(name)
        return {output: "+".join(dict.fromkeys(names)) for output, names in by_output.items()}


class MeanTerm(Term):
    """The mean over the endings of several terms, each with its weight."""

    def __init__(self, terms: list[OutputTerm]) -> None:
        super().__init__()
        self.terms = torch.nn.ModuleList(terms)
        self.counts = [len(term.endings) for term in terms]
        self.weights = [term.loss.weight for term in terms]
        self.student_taps = tuple(tap for term in terms for tap in term.student_taps)
        self.teacher_taps = tuple(tap for term in terms for tap in term.teacher_taps)

    def forward(self, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:
        """The mean over the endings."""
        counted = zip(self.terms, self.counts, self.weights, strict=True)
        return sum(term(student, teacher, labels) * count * weight for term, count, weight in counted) / sum(
            self.counts
        )


def _by_probability(ending: Ending, student: Values) -> bool:
    grid = ending.kind is Kind.FLAGS and student[ending.student.scores].ndim > _MATRIX
    return ending.kind is not Kind.NUMBERS and not grid


def _targets(ending: Ending, rows: Tensor, labels: Tensor) -> Tensor:
    """Labels as cross-entropy takes them: classes (rows,), or distributions (rows, classes)."""
    count = rows.shape[-1]
    labels = labels.to(rows.device)
    if labels.is_floating_point() and labels.shape == rows.shape:
        return labels.to(rows.dtype)
    if labels.numel() != len(rows):
        raise DataError(
            f"output `{ending.output}` has {len(rows)} rows of scores in a batch of {labels.numel()} labels: "
            "one for each sample, or for each pixel, is needed"
        )
    labels = labels.reshape(-1).long()
    classes = 2 if count == 1 else count
    if int(labels.max()) >= classes:
        raise DataError(f"label {int(labels.max())} is beyond the {classes} classes of output `{ending.output}`")
    return labels


def _cross_entropy(ending: Ending, rows: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    count = rows.shape[-1]
    if ending.kind is not Kind.FLAGS and count > 1:
        if targets.is_floating_point():
            return functional.cross_entropy(rows, targets, label_smoothing=smoothing)
        known = (targets >= 0).sum().clamp_min(1)
        wanted = targets.clamp_min(-1)
        return (
            functional.cross_entropy(rows, wanted, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / known
        )
    if not targets.is_floating_point():
        known = targets >= 0
        rows, targets = rows[known], targets[known]
        flags = targets[:, None] if count == 1 else functional.one_hot(targets, count)
        targets = flags.to(rows.dtype)
    if not len(rows):
        return rows.sum()
    smoothed = targets * (1 - smoothing) + smoothing / max(count, 2)
    return functional.binary_cross_entropy_with_logits(rows, smoothed, reduction="none").sum(-1).mean()

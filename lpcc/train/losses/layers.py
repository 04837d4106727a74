"""Losses on hidden layers: features, where a network looks, how samples relate."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from lpcc.errors import UsageError
from lpcc.pipeline.base import Range
from lpcc.train.losses.base import LEAST, Loss, Setting, Term
from lpcc.train.losses.endings import Values, exact
from lpcc.train.losses.regressor import Regressor
from lpcc.train.pairing import Pair
from lpcc.train.pairing.positions import averaged, resized

_WITH_POSITIONS = 3


@dataclass(frozen=True)
class LayerLoss(Loss):
    """A loss on pairs of layers: the mean over the pairs that suit it.

    Layers come as (samples, channels, positions...); where the two of a pair differ in their positions, the finer one
    is averaged to the coarser.
    """

    needs_pairs: ClassVar[bool] = True

    def bind(self, setting: Setting) -> Term:
        """Takes the pairs that suit: all of them if the user gave them.

        Raises:
            UsageError: none suits, or one that the user gave does not.
        """
        suited: list[Pair] = []
        reasons: list[str] = []
        for pair in setting.pairing.pairs:
            why_not = self.misfit(pair, setting)
            if why_not is None:
                suited.append(pair)
            else:
                reasons.append(why_not)
        if reasons and (setting.pairing.given or not suited):
            raise UsageError(f"loss `{self.name}` {reasons[-1]}")
        if not suited:
            raise UsageError(f"loss `{self.name}` compares hidden layers, and no layers of the two networks pair")
        return LayerTerm(self, self.chosen(suited), setting)

    @abstractmethod
    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss on one pair of layers, resized to each other; a scalar."""

    def misfit(self, pair: Pair, setting: Setting) -> str | None:  # noqa: ARG002
        """Why this loss cannot compare a pair, as the end of a sentence; None where it can."""
        return None

    def chosen(self, pairs: list[Pair]) -> list[Pair]:
        """Those of the pairs that suit which are compared."""
        return pairs

    def regressed(self, student: Tensor, teacher: Tensor) -> bool:  # noqa: ARG002
        """Whether the student's layer goes through a trained regressor to the teacher's width."""
        return False

    def pooled(self) -> bool:
        """Whether layers are averaged over their positions first."""
        return False


class LayerTerm(Term):
    """The mean of a `LayerLoss` over pairs, with its regressors."""

    def __init__(self, loss: LayerLoss, pairs: list[Pair], setting: Setting) -> None:
        super().__init__()
        self.loss = loss
        self.pairs = tuple(pairs)
        self.student_taps = tuple(pair.student for pair in pairs)
        self.teacher_taps = tuple(pair.teacher for pair in pairs)
        self._regressors: list[str | None] = []
        for index, pair in enumerate(pairs):
            ours, theirs = self._layers(pair, setting.student, setting.teacher)
            regressed = loss.regressed(ours, theirs)
            self._regressors.append(f"regressor{index}" if regressed else None)
            if regressed:
                self.add_module(f"regressor{index}", Regressor.between(*resized(ours, theirs)))

    def forward(self, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The mean over the pairs."""
        parts = []
        for pair, name in zip(self.pairs, self._regressors, strict=True):
            ours, theirs = resized(*self._layers(pair, student, teacher))
            if name is not None:
                ours = self.get_submodule(name)(ours)
            parts.append(self.loss.between(ours, theirs))
        return sum(parts) / len(parts)

    def _layers(self, pair: Pair, student: Values, teacher: Values) -> tuple[Tensor, Tensor]:
        ours = exact(student[pair.student]).movedim(pair.student_axis, 1)
        theirs = exact(teacher[pair.teacher]).movedim(pair.teacher_axis, 1)
        if self.loss.pooled():
            return averaged(ours), averaged(theirs)
        return ours, theirs


@dataclass(frozen=True)
class Hints(LayerLoss):
    """Hints: from the student's layer S a regressor r shall tell the teacher's layer T.

        L = mean_pairs ||r(S) - T||^2 / ||T||^2,    r(S) = W S + b at every position

    r is a convolution of 1x1 (a matrix, for layers without positions), trained with the student and thrown away, so the
    widths may differ. It begins as the ridge regression of T on S over the first batch, so that the student is not led
    by a random one for its first steps.

    Romero et al.: FitNets: Hints for Thin Deep Nets, 2015 (equation 3), where the hint is a stage of its own before
    `kd` and the regressor a convolution that takes up the difference in size.
    """

    name: ClassVar[str] = "hint"
    weight: ClassVar[float] = 50.0

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared error relative to the teacher's energy."""
        return _relative(student, teacher)

    def regressed(self, student: Tensor, teacher: Tensor) -> bool:  # noqa: ARG002
        """Always: what a layer knows counts, not how it is written."""
        return True


@dataclass(frozen=True)
class Features(LayerLoss):
    """Mimicking: the student's layer S shall be the teacher's layer T, channel by channel.

        L = mean_pairs ||S - T||^2 / ||T||^2

    Both must have the same number of channels: for networks that were quantised, or made sparse, or factorised. Of
    pairs that were found, those of unequal width are passed over; use `hint` for them.

    Li, Jin, Yan: Mimicking Very Efficient Network for Object Detection, 2017.
    """

    name: ClassVar[str] = "features"
    weight: ClassVar[float] = 50.0

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared error relative to the teacher's energy."""
        return _relative(student, teacher)

    def misfit(self, pair: Pair, setting: Setting) -> str | None:
        """Widths differ."""
        ours, theirs = _channels(pair, setting)
        if ours == theirs:
            return None
        return (
            f"compares layers of equal width, and `{pair.student}` has {ours} channels where the teacher's "
            f"`{pair.teacher}` has {theirs}: use `hint`"
        )


@dataclass(frozen=True)
class Attention(LayerLoss):
    """Attention transfer: the student looks where the teacher looks.

        L = mean_pairs mean_samples || Q(S) / ||Q(S)|| - Q(T) / ||Q(T)|| ||^2,    Q(F) = sum_c |F_c|^p

    Q is a map over the positions, so the widths may differ.

    Zagoruyko, Komodakis: Paying More Attention to Attention, 2017 (equation 2, with the square of the norm, as in their
    code).
    """

    name: ClassVar[str] = "attention"
    weight: ClassVar[float] = 10.0
    power: Annotated[float, Range(1, 8)] = 2.0
    """p: more weighs the strongest channels more."""

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared distance of the normalised maps."""
        return (self._map(student) - self._map(teacher)).square().sum(-1).mean()

    def misfit(self, pair: Pair, setting: Setting) -> str | None:
        """Layers without positions."""
        ours, theirs = setting.student[pair.student], setting.teacher[pair.teacher]
        if min(ours.ndim, theirs.ndim) >= _WITH_POSITIONS and min(_positions(ours), _positions(theirs)) > 1:
            return None
        return f"compares maps over positions, and `{pair.student}` or the teacher's `{pair.teacher}` has one position"

    def _map(self, layer: Tensor) -> Tensor:
        strength = layer.abs().pow(self.power).sum(1).flatten(1)
        return strength / strength.square().sum(-1, keepdim=True).clamp_min(LEAST).sqrt()


@dataclass(frozen=True)
class Correlation(LayerLoss):
    """Correlation congruence: samples that are alike to the teacher are alike to the student.

        L = ||C(S) - C(T)||^2 / ||C(T) - mean C(T)||^2,
        C_ij = sum_{p=0..P} exp(-2 g) (2 g)^p / p! (f_i . f_j)^p

    over the samples i, j of a batch, with f the layer averaged over its positions and brought to length 1: C is the
    Taylor expansion, of order P, of the Gaussian kernel exp(-g ||f_i - f_j||^2). Widths may differ. Batches of at least
    two are needed, and larger ones tell more; of a single sample there is nothing to learn.

    Peng et al.: Correlation Congruence for Knowledge Distillation, 2019 (equations 5 to 9), who divide by the square of
    the batch instead, and take the last layer before the scores.
    """

    name: ClassVar[str] = "correlation"
    order: Annotated[int, Range(1, 8)] = 2
    """P, the order of the expansion."""
    gamma: Annotated[float, Range(0.001, 10)] = 0.4
    """g of the Gaussian kernel, per squared distance."""
    layers: Literal["last", "all"] = "last"
    """Which pairs are compared: the deepest, or each."""

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared distance of the kernels, relative to what the teacher's varies by."""
        ours, theirs = self._kernel(student), self._kernel(teacher)
        spread = (theirs - theirs.mean()).square().sum()
        return (ours - theirs).square().sum() / spread.clamp_min(LEAST)

    def misfit(self, pair: Pair, setting: Setting) -> str | None:
        """One sample."""
        if len(setting.student[pair.student]) > 1:
            return None
        return "compares the samples of a batch with each other, and a batch has one: use larger batches"

    def chosen(self, pairs: list[Pair]) -> list[Pair]:
        """The deepest, or all."""
        return pairs[-1:] if self.layers == "last" else pairs

    def pooled(self) -> bool:
        """Samples are compared, not positions."""
        return True

    def _kernel(self, layer: Tensor) -> Tensor:
        unit = layer / layer.square().sum(-1, keepdim=True).clamp_min(LEAST).sqrt()
        like = unit @ unit.T
        terms = (like**p * ((2 * self.gamma) ** p / math.factorial(p)) for p in range(self.order + 1))
        return math.exp(-2 * self.gamma) * sum(terms)


def _relative(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean() / teacher.square().mean().clamp_min(LEAST)


def _channels(pair: Pair, setting: Setting) -> tuple[int, int]:
    ours = setting.student[pair.student].shape[pair.student_axis]
    return int(ours), int(setting.teacher[pair.teacher].shape[pair.teacher_axis])


def _positions(layer: Tensor) -> int:
    return int(math.prod(layer.shape[2:]))

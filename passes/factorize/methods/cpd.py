"""The method `cpd`: thin layers around depthwise ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np

from lpcc.passes.factorize.factors import Factors, Rank, Stage, relative_error
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods.als import Sweeps, Terms, alternate
from lpcc.passes.factorize.methods.base import Decomposition
from lpcc.passes.factorize.methods.correction import DEGENERATE, cancellation, corrected
from lpcc.passes.factorize.methods.starts import bases, hosvd, normal, triples, turned
from lpcc.passes.factorize.methods.svd import Svd

Array = np.ndarray[Any, Any]
Roots = list[tuple[Array | None, Array | None]]
"""For each mode the root of a metric and its inverse; None: the identity."""

_SWEEPS = (50, 300)
"""Fewest and most sweeps of alternating least squares."""
_WORK = 2e10
"""Operations on a tensor that decide how many between the two, and whether all starts are followed to the end."""
_STRETCH = 50
"""Sweeps between looks at whether terms are degenerate."""
_GAIN = 2e-3
"""Share by which a stretch has to lower what is lost, for another one."""
_TRIAL = 5
"""Sweeps after which the starts are compared where only one is."""
_RANDOM = 3
"""Random starts."""
_SEED = 0
_SLACKS = (1.01, 1.1)
"""How much larger a correction may make the error (the root of the share that is lost) of degenerate terms."""
_NEGLIGIBLE = 1e-3
"""Errors below this, as large as those of float16, are none to a correction."""
_DAMPING = 1e-4
"""Share of the mean eigenvalue of a metric that is added to all."""


class Cpd(Decomposition):
    """``W = sum over r of n_r o c_r o k_r``: W as a sum of R rank-one terms (Lebedev et al. 2015, arXiv 1412.6553).

    Three layers: one of a pixel from C to R channels, a depthwise one with the kernel of the old one, its strides,
    dilations and padding, one of a pixel from R to N. The kernel is one mode of W, (N, C, h w): the depthwise layer, of
    little cost beside the two others, has any weights. At half of the MACs that loses 6 to 20 % less energy than the
    four layers of `SeparableCpd` (3x3 layers of a ResNet-20; at a third of them the two are level), and onnxruntime is
    as fast with both. Where C is 1, the first two layers are one.

    For Gemm, MatMul and kernels of one pixel this is the SVD (`Svd`). Of groups, each is decomposed, with R terms each.

    Terms are found by alternating least squares (`alternate`) in float64, from several starts: the largest singular
    triples of the slices of W, HOSVD (tensorly), random ones of a fixed seed. Of small layers all are followed to the
    end; of others a few sweeps, in the leading directions of modes with more than R (CANDELINC), tell which.
    The same weights and rank give the same terms, whatever was asked before.

    A best sum need not exist: terms may grow without bound and cancel each other. Terms whose norms sum up to more than
    `DEGENERATE` times that of orthogonal terms are degenerate. They are corrected (`corrected`, Phan et al. 2020, arXiv
    2008.05441), at an error 1 % or else 10 % larger, and alternating goes on; where that does not help, what was found
    before they became so is taken. Declined is raised at a rank where all that was found is degenerate.

    With moments G, each mode but the first is taken in the metric that G makes on it, its partial trace: G is then
    taken for their Kronecker product, and a sum in the metric is a sum in W again. The last layer is fitted to all of
    G (`Factors.refined`), and so it is for the terms closest to W itself; the better of the two is taken.

    Declined where rank 1 has no fewer weights, as in depthwise layers.
    """

    name: ClassVar[str] = "cpd"

    def __init__(self, form: Form, moments: Array | None = None) -> None:
        super().__init__(form, moments)
        self._matrix = Svd(form, moments) if form.is_pointwise else None
        self._parts = self.split(form.kernel)
        self._found: dict[Rank, Factors] = {}
        if self._matrix is None and _parameters(self._stages([self._zeros(1)] * form.groups)) >= form.tensor.size:
            raise Declined(f"at no rank has {self.name} fewer weights than it")

    @staticmethod
    def split(kernel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Axes of the kernel that each of the depthwise layers moves along: all."""
        return (tuple(range(len(kernel))),)

    @property
    def full(self) -> Rank:
        """Terms that give the weights back: the singular triples, other than 0, of their slices.

        At most the product of the sizes of W's modes but the largest. How few terms are enough is NP-hard to tell.
        """
        if self._matrix is not None:
            return self._matrix.full
        return (max(triples.rank for triples in self._triples),)

    def factors(self, rank: Rank) -> Factors:
        """See the base class."""
        self.check(rank)
        if rank not in self._found:
            if self._matrix is not None:
                self._found[rank] = replace(self._matrix.factors(rank), method=self.name)
            else:
                self._found[rank] = self._decomposed(rank[0])
        return self._found[rank]

    def _decomposed(self, rank: int) -> Factors:
        if rank >= self.full[0]:
            return self._built(self._triples, rank)
        if self.moments is None:
            return self._built(self._terms(rank), rank)
        found = [self._fitted(terms, rank, self.moments) for terms in (self._terms, self._weighted_terms)]
        built = [own for own in found if isinstance(own, Factors)]
        if not built:
            raise next(own for own in found if isinstance(own, Declined))
        return min(built, key=lambda own: relative_error(self.form, own, self.moments))

    def _terms(self, rank: int) -> list[Terms]:
        """Of each group the sum close to the weights."""
        return [closest(tensor, rank, own) for tensor, own in zip(self._tensors, self._triples, strict=True)]

    def _weighted_terms(self, rank: int) -> list[Terms]:
        """Of each group the sum close to the weights in the metrics of the modes."""
        return [
            closest(tensor, rank, exact).times([inverse for _, inverse in roots])
            for tensor, exact, roots in self._weighted
        ]

    @cached_property
    def _weighted(self) -> list[tuple[Array, Terms, Roots]]:
        """Of each group the weights in the metrics of the modes, their triples, and the roots of the metrics."""
        found = []
        for group, tensor in enumerate(self._tensors):
            roots = metric_roots(None if self.moments is None else self.moments[group], tensor.shape)
            weighted = turned(tensor, [root for root, _ in roots])
            found.append((weighted, triples(weighted), roots))
        return found

    def _fitted(self, find: Callable[[int], list[Terms]], rank: int, moments: Array) -> Factors | Declined:
        """The layers of the terms that `find` finds, the last one fitted to the moments; or why there are none."""
        try:
            terms = [_padded(own, rank).balanced() for own in find(rank)]
            refined = self._built(terms, rank).refined(self.form, moments).last
            terms = [
                _towards(own, last.T, float(np.linalg.norm(tensor)))
                for own, last, tensor in zip(terms, refined, self._tensors, strict=True)
            ]
            return self._built(terms, rank)
        except Declined as reason:
            return reason

    def _built(self, terms: Sequence[Terms], rank: int) -> Factors:
        return Factors(self.name, (rank,), self._stages([_padded(own, rank) for own in terms]))

    @cached_property
    def _tensors(self) -> list[Array]:
        """Of each group (N, C, kernel of each part ...)."""
        form = self.form
        sizes = [int(np.prod([form.kernel[axis] for axis in part])) for part in self._parts]
        return [tensor.reshape(form.outputs, form.inputs, *sizes) for tensor in form.tensor]

    @cached_property
    def _triples(self) -> list[Terms]:
        return [triples(tensor) for tensor in self._tensors]

    def _zeros(self, rank: int) -> Terms:
        return Terms(tuple(np.zeros((size, rank)) for size in self._tensors[0].shape))

    def _stages(self, terms: Sequence[Terms]) -> tuple[Stage, ...]:
        """The layers of the terms of all groups."""
        form, rank, axes = self.form, terms[0].rank, len(self.form.kernel)
        ones = (1,) * axes
        modes = [np.stack(factors) for factors in zip(*(own.balanced().factors for own in terms), strict=True)]
        depthwise = [
            np.ascontiguousarray(mode.transpose(0, 2, 1)).reshape(
                -1, 1, 1, *(form.kernel[axis] if axis in part else 1 for axis in range(axes))
            )
            for mode, part in zip(modes[2:], self._parts, strict=True)
        ]
        first = np.ascontiguousarray(modes[1].transpose(0, 2, 1)).reshape(form.groups, rank, form.inputs, *ones)
        ahead = [Stage(first, ())]
        if form.inputs == 1:
            merged = depthwise.pop(0)
            ahead = [Stage(first * merged.reshape(form.groups, rank, 1, *merged.shape[3:]), self._parts[0])]
        behind = [Stage(own, part) for own, part in zip(depthwise[::-1], self._parts[::-1], strict=False)][::-1]
        last = modes[0].reshape(form.groups, form.outputs, rank, *ones)
        return (*ahead, *behind, Stage(last, ()))


class SeparableCpd(Cpd):
    """`Cpd` with a depthwise layer for each axis of the kernel, as Lebedev et al. have it: W as (N, C, h, w)."""

    name: ClassVar[str] = "cpd-separable"

    @staticmethod
    def split(kernel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """See the base class: one each; axes of size 1 go with the first."""
        moving = [axis for axis, size in enumerate(kernel) if size > 1]
        still = [axis for axis, size in enumerate(kernel) if size == 1]
        return (tuple(sorted([*still, *moving[:1]])), *((axis,) for axis in moving[1:]))


def closest(tensor: Array, rank: int, exact: Terms) -> Terms:
    """At most `rank` terms whose sum is close to a tensor of three modes or more; `exact` are its `triples`.

    Raises:
        Declined: all that was found is degenerate.
    """
    if exact.rank <= rank or sum(size > 1 for size in tensor.shape) < 3:  # of a matrix, triples are the optimum
        return exact.first(rank)
    sweeps = Sweeps(tensor)
    work = 4 * tensor.size * rank
    most = int(np.clip(_WORK / work, *_SWEEPS))
    starts = _many_starts if work * most * (_RANDOM + 2) <= _WORK else _best_start
    found = [followed(sweeps, own, most) for own in starts(sweeps, tensor, rank, exact)]
    terms, share = min(found, key=itemgetter(1))
    if share == np.inf:
        lowest = min(cancellation(terms, sweeps.energy**0.5) for terms, _ in found)
        raise Declined(
            f"its {rank} terms cancel each other: their norms sum up to {lowest:.3g} times those of orthogonal ones, "
            f"more than {DEGENERATE:g}, and no smaller ones are as close"
        )
    return terms


def followed(sweeps: Sweeps, start: Terms, most: int) -> tuple[Terms, float]:
    """The closest terms on the way from a start that are not degenerate, and the share of the energy that they lose.

    Degenerate ones are corrected on the way, and where that fails, or costs all that was gained, the way ends. The
    share is infinite, and the terms are degenerate, where there are no others.
    """
    norm = sweeps.energy**0.5
    kept = start, np.inf
    if cancellation(start, norm) <= DEGENERATE:
        kept = start, sweeps.residual(start) / sweeps.energy
    terms = start
    for _ in range(0, most, _STRETCH):
        terms, share = alternate(sweeps, terms, _STRETCH)
        for slack in _SLACKS:
            if cancellation(terms, norm) > DEGENERATE:
                bound = max(share * slack**2, _NEGLIGIBLE**2) * sweeps.energy
                terms = corrected(sweeps, terms, bound, DEGENERATE / 2)
        share = sweeps.residual(terms) / sweeps.energy
        if cancellation(terms, norm) > DEGENERATE or share >= kept[1]:
            return (terms, np.inf) if kept[1] == np.inf else kept
        gained, kept = 1 - share / kept[1], (terms, share)
        if gained < _GAIN:
            break
    return kept


def metric_roots(moments: Array | None, shape: tuple[int, ...]) -> Roots:
    """For each mode the symmetric root of the metric that moments make on it, and its inverse; None for the first.

    `moments` are (depth, depth), with `shape` (N, *sizes of the modes that depth is made of). The metric of a mode is
    the partial trace over the others, of mean eigenvalue 1, slightly damped; without moments, the identity.
    """
    if moments is None:
        return [(None, None)] * len(shape)
    sizes = shape[1:]
    split = moments.reshape(*sizes, *sizes)
    found: Roots = [(None, None)]
    for mode, size in enumerate(sizes):
        metric = np.moveaxis(split, (mode, mode + len(sizes)), (0, 1)).reshape(size, size, -1)
        rest = round(metric.shape[2] ** 0.5)
        metric = np.einsum("abcc->ab", metric.reshape(size, size, rest, rest))
        mean = np.trace(metric) / size
        metric = (metric / mean if mean > 0 else np.zeros_like(metric)) + _DAMPING * np.eye(size)
        squares, basis = np.linalg.eigh(metric)
        roots = np.sqrt(np.maximum(squares, _DAMPING))
        found.append(((basis * roots) @ basis.T, (basis / roots) @ basis.T))
    return found


def _many_starts(sweeps: Sweeps, tensor: Array, rank: int, exact: Terms) -> Iterator[Terms]:
    """Of a small tensor. 100 sweeps from HOSVD at a pace of 0 are what `parafac` of tensorly does: it is no closer."""
    yield exact.first(rank)
    yield alternate(sweeps, hosvd(tensor, rank, _SEED), 100, pace=0.0)[0]
    rng = np.random.default_rng(_SEED)
    yield from (normal(tensor.shape, rank, rng) for _ in range(_RANDOM))


def _best_start(sweeps: Sweeps, tensor: Array, rank: int, exact: Terms) -> Iterator[Terms]:
    """Of a large tensor the best after a few sweeps, most of them in the leading directions of the modes."""
    directions = bases(tensor, rank)
    core = turned(tensor, [None if own is None else own.T for own in directions])
    small, rng = Sweeps(core), np.random.default_rng(_SEED)
    inner = (hosvd(core, rank, _SEED), *(normal(core.shape, rank, rng) for _ in range(_RANDOM)))
    best = min((alternate(small, own, _TRIAL) for own in inner), key=itemgetter(1))[0]
    yield min(
        (alternate(sweeps, own, _TRIAL) for own in (exact.first(rank), best.times(directions))), key=itemgetter(1)
    )[0]


def _towards(terms: Terms, last: Array, norm: float) -> Terms:
    """The terms with `last` as the first mode's factor, or with one as close to it as does not make them degenerate."""
    first, *others = terms.factors
    for share in (1.0, 0.75, 0.5, 0.25):
        found = Terms((share * last + (1 - share) * first, *others))
        if cancellation(found, norm) <= DEGENERATE:
            return found
    return terms


def _padded(terms: Terms, rank: int) -> Terms:
    """The terms, and zeros up to `rank`."""
    return Terms(tuple(np.pad(factor, ((0, 0), (0, rank - terms.rank))) for factor in terms.factors))


def _parameters(stages: Sequence[Stage]) -> int:
    return sum(stage.tensor.size for stage in stages)

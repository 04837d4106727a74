"""Signs with a scale, and signs and zeros: binary and ternary numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lpcc.errors import UsageError
from lpcc.formats.format import TENSOR, Array, Codes, Format, Layout, Scales, as_scale

_TURNS = 20


@dataclass(frozen=True)
class Binary(Format[Scales]):
    """``+-scale`` with the scale ``E|w|`` of the row, which has the least squared error; zero counts as positive.

    Binary-Weight-Networks and the weights of XNOR-Net: Rastegari, Ordonez, Redmon, Farhadi, XNOR-Net, ECCV 2016,
    equations 4 to 6. Code 0 is minus, 1 is plus.
    """

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return 0, 1

    def fit(self, values: Array, layout: Layout = TENSOR) -> Scales:
        """The mean magnitude of each row."""
        rows = layout.rows(np.asarray(values, dtype=np.float32))
        return Scales(layout, np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32))

    def encode(self, values: Array, scales: Scales) -> Codes:  # noqa: ARG002
        """The signs."""
        return ((np.asarray(values) >= 0).astype(np.int32),)

    def decode(self, codes: Codes, scales: Scales) -> Array:
        """``+-scale``."""
        signs = 2 * codes[0].astype(np.float32) - 1
        return np.asarray(signs * scales.spread(scales.scale, signs), dtype=np.float32)

    def levels(self, scales: Scales) -> Array:
        """Two."""
        return np.stack([-scales.scale, scales.scale], axis=1)

    def limits(self, scales: Scales) -> tuple[Array, Array]:
        """-1 and 1, as the paper has it: a weight that has gone beyond stays what it is."""
        ends = np.ones(len(scales.scale), dtype=np.float32)
        return -ends, ends

    def bits(self, scales: Scales) -> float:  # noqa: ARG002
        """One."""
        return 1.0


@dataclass(frozen=True)
class SignActivations(Binary):
    """Activations of XNOR-Net: the sign alone. Their scale is `input_scale`, which depends on the place."""

    def fit(self, values: Array, layout: Layout = TENSOR) -> Scales:  # noqa: ARG002
        """One."""
        return Scales(TENSOR, np.ones(1, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class TernaryScales(Scales):
    """`scale` of what is above the threshold `above`, `negative` of what is below ``-below``; each (rows,)."""

    negative: Array
    above: Array
    below: Array


@dataclass(frozen=True)
class Ternary(Format[TernaryScales]):
    """``+-scale`` and zero: zero within ``threshold E|w|``, the scale the mean magnitude of the rest.

    Li, Zhang, Liu, Ternary weight networks (2016), equations 5 and 6. Codes are -1, 0 and 1.
    """

    threshold: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 10:
            raise UsageError(f"the threshold is between 0 and 10 times the mean magnitude, not {self.threshold}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return -1, 1

    def fit(self, values: Array, layout: Layout = TENSOR) -> TernaryScales:
        """Threshold and scale of each row."""
        rows = np.abs(layout.rows(np.asarray(values, dtype=np.float32))).astype(np.float64)
        edge = self.threshold * rows.mean(axis=1)
        scale = as_scale(_mean(rows, rows > edge[:, None]))
        edge = edge.astype(np.float32)
        return TernaryScales(layout, scale, scale, edge, edge)

    def encode(self, values: Array, scales: TernaryScales) -> Codes:
        """-1, 0 or 1."""
        above, below = (scales.spread(edge, values) for edge in (scales.above, scales.below))
        return ((values > above).astype(np.int32) - (values < -below).astype(np.int32),)

    def decode(self, codes: Codes, scales: TernaryScales) -> Array:
        """Each sign with its scale."""
        signs = codes[0].astype(np.float32)
        up, down = (scales.spread(scale, signs) for scale in (scales.scale, scales.negative))
        return np.asarray(np.maximum(signs, 0) * up + np.minimum(signs, 0) * down, dtype=np.float32)

    def levels(self, scales: TernaryScales) -> Array:
        """Three."""
        return np.stack([-scales.negative, np.zeros_like(scales.scale), scales.scale], axis=1)

    def limits(self, scales: TernaryScales) -> tuple[Array, Array]:
        """None: gradients pass everywhere."""
        ends = np.full(len(scales.scale), np.inf, dtype=np.float32)
        return -ends, ends

    def bits(self, scales: TernaryScales) -> float:  # noqa: ARG002
        """Two, as codes of one length."""
        return 2.0


@dataclass(frozen=True)
class TwoScaleTernary(Ternary):
    """Ternary with a scale for either sign: those of least squared error, and thresholds halfway to them.

    Zhu, Han, Mao, Dally, Trained ternary quantization (2017) learn both by gradient; here they start where the squared
    error is least, found by turns from `Ternary`'s: nearest of the three, then the mean on either side.
    """

    def fit(self, values: Array, layout: Layout = TENSOR) -> TernaryScales:
        """Both scales of each row, by Lloyd's method."""
        rows = layout.rows(np.asarray(values, dtype=np.float32)).astype(np.float64)
        edge = self.threshold * np.abs(rows).mean(axis=1)
        above, below = edge, edge
        for _ in range(_TURNS):
            up, down = _mean(rows, rows > above[:, None]), _mean(-rows, rows < -below[:, None])
            if np.array_equal(above, up / 2) and np.array_equal(below, down / 2):
                break
            above, below = up / 2, down / 2
        up, down = as_scale(up), as_scale(down)
        return TernaryScales(layout, up, down, up / 2, down / 2)


def _mean(rows: Array, chosen: Array) -> Array:
    """Mean of the chosen numbers of each row; 0 where there are none."""
    result: Array = (rows * chosen).sum(axis=1) / np.maximum(chosen.sum(axis=1), 1)
    return result

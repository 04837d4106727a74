"""Choosing how ranges are chosen: by what the quantised network makes of the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lpcc.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset

_POWERS = (2.0, 1.5, 2.5, 3.5)
_IMAGES = 64
_BATCH = 8


@dataclass(frozen=True)
class Powers:
    """The power of the error that ranges minimise, for tensors that are never negative and for all others.

    Those others have no activation behind them: what lies far out in them is often of no consequence, while in the
    tensors behind a ReLU it may be what a classifier goes by.
    """

    positive: float = 2.0
    signed: float = 2.0


def search(reference: onnx.ModelProto, attempt: Callable[[Powers], onnx.ModelProto], data: Dataset) -> Powers:
    """The powers with which the quantised model comes closest to `reference` on the first images of `data`.

    The powers are tried for all tensors alike, then for the signed ones apart. Closeness is the mean over the outputs
    of their signal-to-noise ratio in dB. After Nahshan et al., Loss aware post-training quantization (2019), whose loss
    needs labels; outputs alone do as well here.
    """
    from lpcc.runtime import Session

    few = data.head(_IMAGES)
    session = Session(reference)
    expected = [session.run(batch.feeds) for batch in few.batches(_BATCH)]

    def closeness(powers: Powers) -> float:
        try:
            candidate = Session(attempt(powers))
        except ModelError:
            return -np.inf
        found = (candidate.run(batch.feeds) for batch in few.batches(_BATCH))
        return _signal_to_noise(zip(expected, found, strict=True))

    scores = {powers: closeness(powers) for powers in (Powers(p, p) for p in _POWERS)}
    best = max(scores, key=lambda powers: scores[powers])
    for power in _POWERS:
        powers = replace(best, signed=power)
        if powers not in scores:
            scores[powers] = closeness(powers)
    return max(scores, key=lambda powers: scores[powers])


def _signal_to_noise(pairs: Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> float:
    """Mean over the float outputs of 10 log10(signal / noise), both summed over all images."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for expected, found in pairs:
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                exact = value.astype(np.float64)
                signal[name] = signal.get(name, 0.0) + float(np.sum(exact**2))
                noise[name] = noise.get(name, 0.0) + float(np.sum((exact - found[name]) ** 2))
    ratios = [10 * np.log10(max(signal[n], 1e-30) / max(noise[n], 1e-30)) for n in signal]
    return float(np.mean(ratios)) if ratios and np.isfinite(ratios).all() else -np.inf

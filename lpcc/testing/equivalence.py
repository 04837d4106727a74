"""Numeric equality of two models in onnxruntime, on random inputs, with its own optimisation off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from lpcc.equality import TOLERANCE, difference, interface_change, random_feeds


def assert_equivalent(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Assert that two models give equal outputs and have equal interfaces.

    Without `feeds`, random inputs are made from `seed`, with the sizes `dims` for symbolic dimensions. Two outputs are
    equal if they have one shape and type, and differ nowhere by more than `tolerance` relative to the largest magnitude
    of the output; NaN and infinities in the same places.

    Raises:
        AssertionError: they differ; the message names the output and the largest difference.
    """
    from lpcc.runtime import Session

    change = interface_change(before, after)
    if change is not None:
        raise AssertionError(change)
    feeds = dict(feeds) if feeds is not None else random_feeds(before, seed, dims)
    name, distance = difference(Session(before, optimise=False), Session(after, optimise=False), feeds)
    if distance > tolerance:
        raise AssertionError(f"output `{name}` differs by {distance:.3g} of its magnitude")

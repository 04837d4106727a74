"""Numeric equality of two models in onnxruntime, on random inputs, with its own optimisation off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from lpcc.door import importer
from lpcc.door.lazy import numpy_dtype


def random_feeds(model: onnx.ModelProto, seed: int = 0, dims: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Random values for every input of a model that has no default.

    Floats are normal, integers between 0 and 3, strings the letter ``s``. A symbolic dimension has the size that
    `dims` gives its name, else 2.
    """
    rng = np.random.default_rng(seed)
    defaults = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for info in model.graph.input:
        if info.name in defaults:
            continue
        kind = info.type.tensor_type
        shape = [d if isinstance(d, int) else (dims or {}).get(d or "", 2) for d in importer.shape(kind) or []]
        feeds[info.name] = _random(rng, numpy_dtype(kind.elem_type), shape)
    return feeds


def _random(rng: np.random.Generator, dtype: np.dtype[Any] | None, shape: list[int]) -> np.ndarray:
    if dtype is None or dtype == np.dtype(object):
        return np.full(shape, "s", dtype=object)
    if dtype == np.dtype(bool):
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 4, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def assert_equivalent(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Assert that two models give equal outputs and have equal interfaces.

    Two outputs are equal if they have one shape and type, and differ nowhere by more than `tolerance` relative to the
    largest magnitude of the output; NaN and infinities in the same places.

    Raises:
        AssertionError: they differ; the message names the output and the largest difference.
    """
    from lpcc.runtime import Session

    for side in ("input", "output"):
        old, new = interface(before, side), interface(after, side)
        assert old == new, f"the {side}s changed from {old} to {new}"  # noqa: S101
    feeds = dict(feeds) if feeds is not None else random_feeds(before, seed, dims)
    expected = Session(before, optimise=False).run(feeds)
    found = Session(after, optimise=False).run(feeds)
    for name, value in expected.items():
        difference = relative_difference(value, found[name])
        assert difference <= tolerance, f"output `{name}` differs by {difference:.3g} of its magnitude"  # noqa: S101


def interface(model: onnx.ModelProto, side: str) -> list[tuple[str, str]]:
    """Names and types of a model's inputs without defaults, or of its outputs, in order."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    infos = model.graph.input if side == "input" else model.graph.output
    return [(info.name, str(info.type)) for info in infos if info.name not in defaults]


def relative_difference(expected: Any, found: Any) -> float:
    """Largest difference of two results relative to the largest finite magnitude of `expected`; inf if incomparable.

    Sequences compare element by element. Results that are no numbers are 0 apart if equal, else inf.
    """
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(expected) != len(found):
            return np.inf
        return max((relative_difference(e, f) for e, f in zip(expected, found, strict=True)), default=0.0)
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "biufcV":
        same = np.array_equal(expected, found) if isinstance(expected, np.ndarray) else expected == found
        return 0.0 if same else np.inf
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return np.inf
    if expected.size == 0:
        return 0.0
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    if not finite.any():
        return 0.0
    return float(np.abs(a - b)[finite].max() / max(float(np.abs(a[finite]).max()), 1e-6))

"""Are two models the same? The same interface, and equal outputs within rounding.

Bit equality across kernels is not to be expected, so numbers compare relative to the magnitude of the whole output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lpcc.door import importer
from lpcc.door.lazy import numpy_dtype

if TYPE_CHECKING:
    from lpcc.runtime import Session

TOLERANCE = 1e-4
"""Largest difference, relative to an output's magnitude, that still counts as rounding in float32."""

_PERTURBED_RUNS = 3
_PERTURBED_ROUNDINGS = 4
_ROUNDING = {onnx.TensorProto.FLOAT: 2.0**-23, onnx.TensorProto.FLOAT16: 2.0**-10, onnx.TensorProto.BFLOAT16: 2.0**-7}


def interface(model: onnx.ModelProto, side: str) -> list[tuple[str, str]]:
    """Names and types, in order, of a model's inputs without defaults (side "input"), or of its outputs ("output")."""
    if side == "output":
        return [(info.name, str(info.type)) for info in model.graph.output]
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [(info.name, str(info.type)) for info in model.graph.input if info.name not in defaults]


def interface_change(before: onnx.ModelProto, after: onnx.ModelProto) -> str | None:
    """What changed in a model's interface, in words; None if nothing did."""
    for side in ("input", "output"):
        old, new = interface(before, side), interface(after, side)
        if old != new:
            lost = [name for name, _ in old if name not in dict(new)]
            if lost:
                return f"the {side} `{lost[0]}` is gone"
            changed = next((n for (n, t), (m, u) in zip(old, new, strict=False) if (n, t) != (m, u)), new[-1][0])
            return f"the {side} `{changed}` is new, has moved or has another type"
    return None


def relative_difference(expected: Any, found: Any) -> float:
    """Largest difference of two results relative to the largest finite magnitude of `expected`; inf if incomparable.

    Sequences compare element by element. Results that are no numbers are 0 apart if equal, else inf. Where one has NaN
    or an infinity the other must have the same.
    """
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(expected) != len(found):
            return np.inf
        return max((relative_difference(e, f) for e, f in zip(expected, found, strict=True)), default=0.0)
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "biufcV":
        same = np.array_equal(expected, found) if isinstance(expected, np.ndarray) else bool(expected == found)
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
    return float(np.abs(a[finite] - b[finite]).max() / max(float(np.abs(a[finite]).max()), 1e-6))


def largest_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, float]:
    """The output in which two results differ most, and by how much (see `relative_difference`)."""
    worst = ("", 0.0)
    for name, value in expected.items():
        distance = relative_difference(value, found.get(name))
        if distance > worst[1]:
            worst = (name, distance)
    return worst


def difference(reference: Session, candidate: Session, feeds: Mapping[str, np.ndarray]) -> tuple[str, float]:
    """The output in which two models differ most on `feeds`, and by how much."""
    return largest_difference(reference.run(feeds), candidate.run(feeds))


def sensitivity(
    model: onnx.ModelProto, reference: Session, feeds: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> dict[str, float]:
    """How far each output of a model moves when its float inputs move by a few roundings (see `relative_difference`).

    Roundings are those of the coarsest float type that the model holds. `reference` runs `model`, whose outputs on
    `feeds` are `expected`. Two models that are equal within rounding may be so far apart: little for most, much for
    float16, for rounding and sorting inside the model, and for very deep ones.
    """
    unit = _PERTURBED_ROUNDINGS * _coarsest_rounding(model)
    moved = dict.fromkeys(expected, 0.0)
    for seed in range(_PERTURBED_RUNS):
        rng = np.random.default_rng(seed)
        near = {
            name: (value * (1 + unit * rng.uniform(-1, 1, value.shape))).astype(value.dtype)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for name, value in feeds.items()
        }
        for name, value in reference.run(near).items():
            moved[name] = max(moved[name], relative_difference(expected[name], value))
    return moved


def _coarsest_rounding(model: onnx.ModelProto) -> float:
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {info.type.tensor_type.elem_type for info in [*model.graph.input, *model.graph.output]}
    return max(rounding for kind, rounding in _ROUNDING.items() if kind in kinds or kind == onnx.TensorProto.FLOAT)


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
    return np.asarray(rng.standard_normal(shape)).astype(dtype)

"""What samples must look like: the checks that every source makes, and the preprocessing on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from lpcc.data.preprocess import Preprocess
from lpcc.errors import DataError
from lpcc.runtime.spec import Array, Dim, TensorSpec, shape_text

_IMAGE = 3
"""Axes of one image: channels, height, width, in this order or another."""

LABELS = "labels"
"""The key under which the truth lies beside the inputs."""


@dataclass(frozen=True)
class Rows:
    """What one sample of each input must look like. Shapes are without the sample axis.

    With a preprocessing, arrays of uint8 are raw images that still have to go through it; other arrays are ready.
    """

    specs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None = None
    together: int | None = None
    """Samples that the model takes at a time, on the first axis of its inputs; None: any number."""

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], preprocess: Preprocess | None = None) -> Rows:
        """Rows for a model of these inputs."""
        return cls(without_axis(inputs), preprocess, sample_axis(inputs)[1])

    def check(self, where: str, found: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
        """Check types and whole shapes by array name; gives the number of samples. Raises DataError naming `where`."""
        counts: dict[str, int] = {}
        for spec in self.specs:
            if spec.name not in found:
                hint = _hint(spec.name, found)
                raise DataError(f"{where}: no array `{spec.name}`{hint}; arrays are keyed by input name")
            dtype, shape = found[spec.name]
            what = f"{where}: array `{spec.name}`"
            if not shape:
                raise DataError(f"{what} is a single value; its first axis must be the samples")
            counts[spec.name] = shape[0]
            self._check_one(what, spec, dtype, shape[1:])
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"`{name}` {count}" for name, count in counts.items())
            raise DataError(f"{where}: arrays differ in their number of samples ({lengths})")
        count = next(iter(counts.values()))
        if count == 0:
            raise DataError(f"{where}: no samples")
        return count

    def feed(self, where: str, arrays: Mapping[str, Array], first: int) -> dict[str, Array]:
        """Arrays that passed `check`, preprocessed and found free of NaN and infinity.

        `first` is the index of their first sample, for messages.
        """
        feeds: dict[str, Array] = {}
        for spec in self.specs:
            array = arrays[spec.name]
            if self.preprocess is not None and array.dtype == np.uint8:
                array = self.preprocess.images(array, _dtype(spec))
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                bad = first + int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
                raise DataError(f"{where}: array `{spec.name}` holds NaN or infinity in sample {bad}")
            feeds[spec.name] = np.ascontiguousarray(array)
        return feeds

    def _check_one(self, what: str, spec: TensorSpec, dtype: np.dtype[Any], row: tuple[int, ...]) -> None:
        wanted = _dtype(spec)
        made = ""
        if self.preprocess is not None and dtype == np.uint8:
            row = self.preprocess.shape(what, row)
            made = " after preprocessing"
        elif dtype.hasobject:
            raise DataError(f"{what} holds pickled Python objects, which are never read; save it as {wanted}")
        elif dtype != wanted:
            if dtype == np.uint8:
                cure = "state how images become inputs in a preprocessing file"
            else:
                cure = f"save it with .astype(np.{wanted})"
            raise DataError(f"{what} is {dtype}, the model takes {wanted}: {cure}")
        if not fits(row, spec.shape):
            raise DataError(
                f"{what} has samples of shape {shape_text(row)}{made}, the model takes {shape_text(spec.shape)}"
                f"{self.cure(row, spec.shape or ())}"
            )

    def cure(self, row: tuple[int, ...], wanted: tuple[Dim, ...]) -> str:
        """What to do about samples of a wrong shape, where that can be told."""
        if row[:1] == (self.together,) and fits(row[1:], wanted):
            rows = f"(-1, {', '.join(map(str, row[1:]))})"
            return (
                f": the first axis of the model's input, {shape_text((self.together, *wanted))}, counts samples, "
                f"{self.together} at a time; give the model a batch axis, or arrays of shape {rows}"
            )
        if self.preprocess is not None and row[:1] == (1,) and fits((3, *row[1:]), wanted):
            return ': `color = "RGB"` in the preprocessing file makes three channels of one'
        if len(row) + 1 == len(wanted) and fits(row, wanted[1:]):
            return ": the first axis of an array is that of the samples; of a single one it has size 1"
        if len(row) == len(wanted) == _IMAGE:
            if fits((row[2], row[0], row[1]), wanted):
                return ": channels are last, the model has them first: .transpose(0, 3, 1, 2)"
            if fits((row[1], row[2], row[0]), wanted):
                return ": channels are first, the model has them last: .transpose(0, 2, 3, 1)"
        return ""


def fits(row: tuple[int, ...], shape: tuple[Dim, ...] | None) -> bool:
    """Whether a sample's shape is one that the model takes: fixed dimensions are equal, the others free."""
    if shape is None:
        return True
    return len(row) == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, row, strict=True)
    )


def sample_axis(inputs: Sequence[TensorSpec]) -> tuple[bool, int | None]:
    """Whether the first dimension of the inputs is a sample axis, and its fixed size if it has one."""
    firsts = {spec.shape[0] if spec.shape else None for spec in inputs if spec.shape is not None}
    fixed = {first for first in firsts if isinstance(first, int)}
    scalars = any(spec.shape == () for spec in inputs)
    if not inputs or scalars or len(fixed) > 1 or fixed == {0}:
        return False, None
    return True, next(iter(fixed), None)


def without_axis(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The inputs as one sample has them: without the sample axis."""
    sampled, _ = sample_axis(inputs)
    if not sampled:
        return tuple(inputs)
    return tuple(replace(spec, shape=None if spec.shape is None else spec.shape[1:]) for spec in inputs)


def check_labels(where: str, labels: Array, count: int) -> Array:
    """Labels as int64 (N,), one class index per sample. Raises DataError."""
    what = f"{where}: `{LABELS}`"
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what} is {labels.dtype}; class indices are integers")
    if labels.ndim != 1:
        raise DataError(f"{what} has shape {shape_text(labels.shape)}; it is one class index per sample, [{count}]")
    if len(labels) != count:
        raise DataError(f"{what} has {len(labels)} entries for {count} samples")
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{what} is negative in sample {int(np.argmin(labels))}; class indices start at 0")
    return labels.astype(np.int64)


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    if spec.dtype is None:
        raise DataError(f"input `{spec.name}` of the model is no tensor; data cannot be given for it")
    return spec.dtype


def _hint(name: str, found: Mapping[str, object]) -> str:
    names = [other for other in found if other != LABELS]
    close = get_close_matches(name, names, n=1)
    if close:
        return f" (did you name it `{close[0]}`?)"
    if names:
        return f" (there is {', '.join(f'`{other}`' for other in names[:5])})"
    return ""

"""Samples for calibration and evaluation, as models take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpcc.data.arrays import ArraySource
from lpcc.data.entry import is_entry
from lpcc.data.folder import FolderSource
from lpcc.data.function import FunctionSource
from lpcc.data.npz import NpzSource
from lpcc.data.preprocess import Preprocess
from lpcc.data.rows import LABELS, Rows, sample_axis
from lpcc.data.source import Block, Head, Source, Unlabelled
from lpcc.errors import DataError
from lpcc.runtime.spec import Array, TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Batch:
    """What one run of a model is fed, and the truth about it."""

    feeds: dict[str, Array]
    """Arrays by input name."""
    labels: Array | None
    """Class indices, int64 (count,)."""
    count: int
    """Samples that count. A model of fixed batch size gets its last batch filled up with copies of the last sample."""
    rows: int
    """Samples in `feeds`, padding included."""

    def valid(self, output: Array) -> Array:
        """`output` without the rows that belong to padding."""
        if self.count == self.rows or output.ndim == 0 or len(output) != self.rows:
            return output
        return output[: self.count]


class Dataset:
    """A finite sequence of samples for a model's inputs, read in a stream any number of times.

    Memory does not grow with the number of samples: a pass holds one batch.

    The first dimension of the inputs is the sample axis. Where the inputs disagree on it (a scalar, fixed first
    dimensions that differ) the model has none, and each sample is one whole set of inputs.
    """

    def __init__(self, source: Source, inputs: Sequence[TensorSpec], *, is_synthetic: bool = False) -> None:
        self._source = source
        self._inputs = tuple(inputs)
        self.sampled, self.fixed_batch = sample_axis(inputs)
        """Whether the inputs have a sample axis, and its size where the model fixes it."""
        self.is_synthetic = is_synthetic
        """Whether the samples are made up: numbers measured on them say little about real images."""

    @classmethod
    def open(
        cls,
        spec: str | Path | Mapping[str, Array],
        inputs: Sequence[TensorSpec],
        preprocess: Path | Preprocess | None = None,
        labels_needed: bool = False,
    ) -> Dataset:
        """Data for a model's inputs from an .npz file, the like in memory, a folder of images, or ``module:function``.

        `preprocess` is how images become inputs (a TOML file): needed for folders, applied to arrays of uint8
        elsewhere. Raises DataError in one line naming file and array when the data does not fit the inputs, UsageError
        when ``module:function`` names nothing. Values are checked as they are read: NaN raises during `batches`.
        """
        if isinstance(preprocess, Path):
            preprocess = Preprocess.load(preprocess)
        where = "arrays" if isinstance(spec, Mapping) else str(spec)
        if not where:
            raise DataError("data without a name: give an .npz file, a folder of images, or module:function")
        if not inputs:
            raise DataError(f"{where}: the model has no inputs to feed")
        rows = Rows.of(inputs, preprocess)
        source = _in_memory(spec, rows) if isinstance(spec, Mapping) else _source(where, rows)
        if labels_needed and not source.labelled:
            raise DataError(f"{where}: has no labels: {_how_to_label(source)}")
        return cls(source, inputs)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Array], labels: Array | None = None, inputs: Sequence[TensorSpec] | None = None
    ) -> Dataset:
        """Data that is in memory: arrays by input name, samples on the first axis.

        They are checked against `inputs` where given. Raises DataError.
        """
        if inputs is None:
            inputs = tuple(TensorSpec(name, a.dtype, (None, *a.shape[1:])) for name, a in arrays.items())
        return cls(ArraySource(arrays, labels, Rows.of(inputs)), inputs)

    @classmethod
    def synthetic(
        cls,
        model: onnx.ModelProto | Sequence[TensorSpec],
        count: int = 64,
        seed: int = 0,
        size: int = 224,
        preprocess: Path | Preprocess | None = None,
        limits: Mapping[str, tuple[float, float]] | None = None,
    ) -> Dataset:
        """Made-up images that look to `model` as much like its training images as can be told without data.

        See `lpcc.data.synthetic` for the method. `model` is the network as it was trained, batch norms not folded; of
        bare specs only types and shapes are used. `size` is taken for dimensions that are not fixed. `preprocess`, how
        images become inputs, and `limits`, the least and the greatest number of activations by name, help where they
        are known. The same arguments give the same samples.
        """
        from lpcc.data.synthetic import SyntheticSource

        inputs = tuple(model) if isinstance(model, Sequence) else TensorSpec.inputs_of(model)
        proto = None if isinstance(model, Sequence) else model
        recipe = Preprocess.load(preprocess) if isinstance(preprocess, Path) else preprocess
        return cls(SyntheticSource(inputs, proto, count, seed, size, recipe, limits), inputs, is_synthetic=True)

    @property
    def description(self) -> str:
        """What this is, for messages and reports."""
        return self._source.description

    @property
    def labelled(self) -> bool:
        """Whether batches have labels."""
        return self._source.labelled

    def __len__(self) -> int:
        return len(self._source)

    def blocks(self, size: int) -> Iterator[Block]:
        """All samples in order, `size` at a time, fewer in the last block: for who makes batches of them himself.

        Not filled up to a fixed batch; where the inputs have no sample axis (not `sampled`), arrays have one before the
        input's own. Raises DataError as `batches` does.
        """
        return self._source.blocks(size)

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` at a time, or as many as the model's fixed batch size asks for.

        Raises DataError when a sample turns out to be wrong (NaN, a damaged image).
        """
        for block in self._source.blocks((self.fixed_batch or size) if self.sampled else 1):
            count = len(block)
            feeds = block.arrays
            if not self.sampled:
                feeds = {name: array[0, ...] for name, array in feeds.items()}  # an array even of a scalar
            elif self.fixed_batch and count < self.fixed_batch:
                feeds = {name: _pad(array, self.fixed_batch) for name, array in feeds.items()}
            yield Batch(feeds, block.labels, count, self.fixed_batch or count)

    def serving(self, inputs: Sequence[TensorSpec]) -> Dataset:
        """The same samples in the batches that a model of these inputs takes.

        Raises DataError if they are samples for inputs of other names or types.
        """
        wanted, here = ({spec.name: spec.dtype for spec in specs} for specs in (inputs, self._inputs))
        for name in sorted({*wanted, *here}):
            if name not in here:
                raise DataError(f"{self.description}: no array `{name}`; arrays are keyed by input name")
            if name not in wanted:
                raise DataError(f"{self.description}: array `{name}` is no input of the model")
            taken, held = wanted[name], here[name]
            if taken is not None and held is not None and taken != held:
                raise DataError(f"{self.description}: array `{name}` is {held}; the model takes {taken}")
        return Dataset(self._source, inputs, is_synthetic=self.is_synthetic)

    def unlabelled(self) -> Dataset:
        """The same samples without their labels."""
        return Dataset(Unlabelled(self._source), self._inputs, is_synthetic=self.is_synthetic)

    def head(self, count: int) -> Dataset:
        """The first `count` samples (all, if there are fewer)."""
        return Dataset(Head(self._source, count), self._inputs, is_synthetic=self.is_synthetic)


def _in_memory(arrays: Mapping[str, Array], rows: Rows) -> Source:
    """Arrays as an .npz file would hold them, labels among them."""
    return ArraySource({name: array for name, array in arrays.items() if name != LABELS}, arrays.get(LABELS), rows)


def _source(spec: str, rows: Rows) -> Source:
    path = Path(spec)
    if path.is_dir():
        return FolderSource(path, rows)
    if path.suffix.lower() == ".npz":
        if not path.exists():
            raise DataError(f"{spec}: no such file")
        return NpzSource(path, rows)
    if path.exists():
        raise DataError(f"{spec}: is no data that lpcc reads: an .npz file, a folder of images, module:function")
    if is_entry(spec):
        return FunctionSource(spec, rows)
    raise DataError(f"{spec}: no such file or folder")


def _how_to_label(source: Source) -> str:
    if isinstance(source, FolderSource):
        return "put the images into a sub-folder per class, or add a labels.csv with lines `file,class index`"
    return "add a `labels` array with one class index per sample"


def _pad(array: Array, rows: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])

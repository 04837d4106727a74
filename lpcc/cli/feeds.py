"""Inputs for models that a command runs: the user's, or random ones of the sizes asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lpcc.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from lpcc.runtime import Array, TensorSpec

SIZE = 224
"""Of an open dimension that is not the first and that nobody gave a size."""


def check_sizes(sizes: Mapping[str, int], inputs: Iterable[TensorSpec]) -> None:
    """Raise UsageError for the first of `sizes` that names no open dimension of `inputs`."""
    names = set()
    for spec in inputs:
        for axis, dim in enumerate(spec.shape or ()):
            if not isinstance(dim, int):
                names |= {f"{spec.name}[{axis}]"} | ({dim} if dim else set())
    for name in sizes:
        if name not in names:
            known = f"open are {', '.join(sorted(names))}" if names else "all are fixed"
            raise UsageError(f"--dim {name}: the model's inputs have no open dimension of that name; {known}")


def random_feeds(model: onnx.ModelProto, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Random inputs; open dimensions have the sizes that are given, else 1 for the first of an input, 224 for others.

    Raises:
        UsageError: a size names no open dimension.
    """
    import onnx

    from lpcc import equality
    from lpcc.runtime import TensorSpec

    check_sizes(sizes, TensorSpec.inputs_of(model))
    sized = onnx.ModelProto()
    sized.graph.initializer.extend(onnx.TensorProto(name=tensor.name) for tensor in model.graph.initializer)
    known = dict(sizes)  # grows: a name has one size wherever it is used
    for declared in model.graph.input:
        info = sized.graph.input.add()
        info.CopyFrom(declared)
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                place = f"{info.name}[{axis}]"
                name = dim.dim_param or place
                known[name] = known.get(place, known.get(name, 1 if axis == 0 else SIZE))
                dim.dim_value = known[name]
    return equality.random_feeds(sized, seed)


def data_feeds(model: onnx.ModelProto, data: str, preprocess: Path | None, samples: int) -> Iterator[dict[str, Array]]:
    """The user's inputs, one sample at a time (or a batch of the size that the model asks for).

    Raises:
        DataError: the data does not fit the model's inputs.
    """
    from lpcc.data import Dataset
    from lpcc.runtime import TensorSpec

    dataset = Dataset.open(data, TensorSpec.inputs_of(model), preprocess)
    for batch in dataset.head(samples).batches(1):
        yield batch.feeds

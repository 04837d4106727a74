"""What a layer reads, as rows of a matrix, in a stream.

A Conv, Gemm or MatMul is one matrix product for each group of its channels: every number that it writes is the product
of a patch of its input (a row) with the weights of an output channel (a column). Methods that choose weights by what a
layer really reads (rounding, factorisation, pruning, distillation) work on these rows. There are far more of them than
such methods need, so a few are taken of each image, at positions that depend on the number of the image alone.

    window = Window.of(node, weights.shape)
    reader = Reader(model, [Patches("conv1_input", window), Results("conv1_output", window)], per_image=32)
    for _, (patches, results) in read(data, reader):
        ...  # (images, rows, groups, depth) and (images, rows, groups, outputs)
    # for each group: patches @ window.matrix(weights) + bias == results
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc import edit
from lpcc.calibrate.partial import part
from lpcc.formats.affine import Params

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from lpcc.data import Batch, Dataset

Array = np.ndarray[Any, Any]

_BATCH = 8
_GOLDEN = (5**0.5 - 1) / 2


class NoPatches(Exception):  # noqa: N818 - not an error: the layer is left alone
    """What a layer reads cannot be had as rows; the message is the reason."""


@dataclass(frozen=True)
class Window:
    """How a Conv, Gemm or MatMul reads its input: the matrix product that it is.

    For each of `groups` groups of channels, rows of `depth` numbers are multiplied with a matrix of `outputs` columns.
    """

    groups: int
    depth: int
    outputs: int
    kernel: tuple[int, ...] | None
    """Size of a convolution's window; None for Gemm and MatMul."""
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    """Zeros added before each spatial axis, then those after each."""
    auto_pad: str = "NOTSET"
    transposed: bool = False
    """Whether the weights of a Gemm are stored as (outputs, depth)."""

    @classmethod
    def pixels(cls, channels: int, rank: int = 2) -> Window:
        """A window of one pixel: its rows are the channels of a feature map of `rank` spatial axes, as they are."""
        ones = (1,) * rank
        return cls(1, channels, channels, ones, ones, ones, (0,) * 2 * rank)

    @classmethod
    def of(cls, node: gs.Node, shape: Sequence[int]) -> Window:
        """The window of a layer with weights of `shape`.

        Raises:
            NoPatches: the operator is another, or transposes its input, or the weights have no shape for it.
        """
        op = edit.op(node)
        shape = tuple(shape)
        if op == "Conv" and len(shape) > 2:
            groups = int(edit.attr(node, "group", 1))
            kernel = shape[2:]
            pad = edit.attr(node, "auto_pad", "NOTSET")
            ones = (1,) * len(kernel)
            return cls(
                groups=groups,
                depth=int(np.prod(shape[1:])),
                outputs=shape[0] // groups,
                kernel=kernel,
                strides=tuple(edit.attr(node, "strides", None) or ones),
                dilations=tuple(edit.attr(node, "dilations", None) or ones),
                pads=tuple(edit.attr(node, "pads", None) or (0,) * 2 * len(kernel)),
                auto_pad=pad.decode() if isinstance(pad, bytes) else pad,
            )
        if op == "Gemm" and len(shape) == 2 and not edit.attr(node, "transA", 0):
            transposed = bool(edit.attr(node, "transB", 0))
            depth, outputs = reversed(shape) if transposed else shape
            return cls(1, depth, outputs, None, transposed=transposed)
        if op == "MatMul" and len(shape) == 2:
            return cls(1, shape[0], shape[1], None)
        raise NoPatches(f"a {op} with weights of shape {list(shape)} is not read as rows")

    def matrix(self, weights: Array) -> Array:
        """The weights of the layer as (groups, depth, outputs), in their own type."""
        if self.kernel is None:
            return (weights.T if self.transposed else weights)[None]
        columns: Array = weights.reshape(self.groups, self.outputs, self.depth).transpose(0, 2, 1)
        return columns

    def weights(self, matrix: Array, shape: Sequence[int]) -> Array:
        """The inverse of `matrix`: (groups, depth, outputs) as weights of `shape`."""
        if self.kernel is None:
            return np.ascontiguousarray(matrix[0].T if self.transposed else matrix[0]).reshape(shape)
        return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(shape)

    def per_channel(self, values: Array) -> Array:
        """A number for each output channel (channels,), or one for all, as (groups, 1, outputs)."""
        spread: Array = np.broadcast_to(values.reshape(-1), (self.groups * self.outputs,))
        return spread.reshape(self.groups, 1, self.outputs)

    def patches(self, values: Array, first: int, per_image: int) -> Array:
        """Rows (items, positions, groups, depth) of the input `values`, whose first axis counts items from `first` on.

        The positions are those of `places`.

        Raises:
            NoPatches: the shape of `values` does not suit the weights.
        """
        if self.kernel is None:
            if values.ndim < 2 or values.shape[-1] != self.depth:
                raise NoPatches(f"it reads {list(values.shape)}, weights of depth {self.depth}")
            rows = values.reshape(len(values), -1, self.depth)
            chosen = places(first, len(rows), rows.shape[1], per_image)
            return np.take_along_axis(rows, chosen[:, :, None], axis=1)[:, :, None, :]
        if (
            values.ndim != 2 + len(self.kernel)
            or values.shape[1] * int(np.prod(self.kernel)) != self.groups * self.depth
        ):
            raise NoPatches(f"it reads {list(values.shape)}, a window of {list(self.kernel)}")
        padding, sizes = self._layout(values.shape[2:])
        padded = np.pad(values, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else values
        chosen = places(first, len(values), int(np.prod(sizes)), per_image)
        starts = np.unravel_index(chosen, sizes)
        rank = len(self.kernel)
        index: list[Any] = []
        for axis in range(rank):
            taps = np.arange(self.kernel[axis]).reshape([-1 if i == axis else 1 for i in range(rank)])
            start = starts[axis].reshape(*chosen.shape, *[1] * rank) * self.strides[axis]
            index.append(start + taps * self.dilations[axis])
        item = np.arange(len(values)).reshape(-1, *[1] * (rank + 1))
        found = padded[(item, slice(None), *index)]  # (items, positions, window ..., channels)
        found = np.moveaxis(found, -1, 2)
        return found.reshape(*chosen.shape, self.groups, self.depth)

    def results(self, values: Array, first: int, per_image: int) -> Array:
        """Rows (items, positions, groups, outputs) of what the layer writes, at the positions that `patches` takes.

        Raises:
            NoPatches: the shape of `values` does not suit the weights.
        """
        channels = self.groups * self.outputs
        if self.kernel is None:
            rows = values.reshape(len(values), -1, values.shape[-1]) if values.ndim > 1 else values[:, None, None]
        else:
            rows = values.reshape(*values.shape[:2], -1).transpose(0, 2, 1)
        if rows.shape[2] != channels:
            raise NoPatches(f"it writes {list(values.shape)}, {channels} channels")
        chosen = places(first, len(rows), rows.shape[1], per_image)
        found = np.take_along_axis(rows, chosen[:, :, None], axis=1)
        return found.reshape(*chosen.shape, self.groups, self.outputs)

    def _layout(self, sizes: Sequence[int]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        """Padding before and after each spatial axis of an input, and the sizes of the output."""
        if self.kernel is None:
            return [], ()
        padding, written = [], []
        for axis, size in enumerate(sizes):
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            stride = self.strides[axis]
            before, after = self.pads[axis], self.pads[axis + len(sizes)]
            if self.auto_pad == "VALID":
                before = after = 0
            elif self.auto_pad.startswith("SAME"):
                total = max((-(-size // stride) - 1) * stride + reach - size, 0)
                before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
                after = total - before
            padding.append((before, after))
            written.append((size + before + after - reach) // stride + 1)
        return padding, tuple(written)


def places(first: int, count: int, total: int, most: int) -> Array:
    """Which of `total` positions are looked at in `count` items from number `first` on: (count, <= most), sorted.

    All, where there are no more than `most`. Else a golden-ratio sequence that runs on from item to item: each item
    shows positions spread over all of it, other items others, and which does not depend on how items are batched.
    """
    if total <= most:
        return np.broadcast_to(np.arange(total), (count, total))
    numbers = np.arange(first * most, (first + count) * most, dtype=np.float64).reshape(count, most)
    found: Array = np.sort(np.floor((numbers + 0.5) * _GOLDEN % 1.0 * total).astype(np.intp), axis=1)
    return found


@dataclass(frozen=True)
class View(ABC):
    """A tensor, and the window of the layer by which it is looked at.

    `params` are scale and zero point where the tensor holds integers that stand for numbers.
    """

    tensor: str
    window: Window
    params: Params | None = None

    def rows(self, values: Array, batch: Batch, first: int, per_image: int) -> Array:
        """About `per_image` rows of each image, (images, rows of one, groups, numbers).

        `values` is what the tensor holds for a batch whose first image is number `first`.

        Raises:
            NoPatches: the tensor has no shape for the window.
        """
        if values.ndim == 0 or len(values) % batch.rows:
            raise NoPatches(f"the first axis of `{self.tensor}` does not count the images")
        items = len(values) // batch.rows  # of one image
        values = values[: batch.count * items]
        if self.params is not None:
            values = (values.astype(np.float32) - np.float32(self.params.zero_point)) * self.params.scale
        rows = self._take(values, first * items, max(1, per_image // items))
        return rows.reshape(batch.count, -1, *rows.shape[2:])

    @abstractmethod
    def _take(self, values: Array, first: int, per_item: int) -> Array:
        """Rows (items, positions, groups, numbers)."""


class Patches(View):
    """What a layer reads from a tensor: rows of `Window.depth` numbers for each group."""

    def _take(self, values: Array, first: int, per_item: int) -> Array:
        return self.window.patches(values, first, per_item)


class Results(View):
    """What a layer writes to a tensor, where its `Patches` are: rows of `Window.outputs` numbers for each group."""

    def _take(self, values: Array, first: int, per_item: int) -> Array:
        return self.window.results(values, first, per_item)


class Reader:
    """A model run in onnxruntime for what some of its layers read and write.

    Only the part of the model that makes the wanted tensors is run. Tensors may be graph inputs. About `per_image` rows
    are taken of each image for each view.

    Raises ModelError when onnxruntime refuses the model, or no node of its main graph makes a wanted tensor.
    """

    def __init__(
        self, model: onnx.ModelProto, views: Sequence[View], per_image: int | Sequence[int], threads: int = 1
    ) -> None:
        from lpcc.runtime import Session

        self.views = tuple(views)
        self._limits = [per_image] * len(self.views) if isinstance(per_image, int) else list(per_image)
        fed = {info.name for info in model.graph.input}
        self._outputs = [name for name in dict.fromkeys(view.tensor for view in self.views) if name not in fed]
        self._session = Session(part(model, self._outputs), threads=threads) if self._outputs else None

    def read(self, batch: Batch, first: int) -> list[Array]:
        """Rows of each view, (images, rows of one, groups, numbers), of a batch whose first image is number `first`.

        Raises:
            ModelError: the model cannot run on the batch.
            NoPatches: a tensor has no shape for its view.
        """
        values = self.values(batch)
        return [
            view.rows(values[view.tensor], batch, first, limit)
            for view, limit in zip(self.views, self._limits, strict=True)
        ]

    def values(self, batch: Batch) -> dict[str, Array]:
        """The tensors that are looked at, and the inputs, by name. Raises ModelError: it cannot run on the batch."""
        values = dict(batch.feeds)
        if self._session is not None:
            feeds = {spec.name: batch.feeds[spec.name] for spec in self._session.inputs}
            values.update(self._session.run(feeds, self._outputs))
        return values


def read(data: Dataset, *readers: Reader) -> Iterator[tuple[range, list[Array]]]:
    """For each batch of `data`, in order, the numbers of its images and the rows of all views of all readers.

    Rows are (images, rows of one, groups, numbers), as `Reader.read` gives them.

    Raises:
        ModelError: a model cannot run on a batch.
        NoPatches: a tensor has no shape for its view.
        DataError: a sample turns out to be wrong.
    """
    first = 0
    for batch in data.batches(_BATCH):
        numbers = range(first, first + batch.count)
        yield numbers, [rows for reader in readers for rows in reader.read(batch, first)]
        first += batch.count

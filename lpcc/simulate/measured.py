"""How much layers saturate on x86 without VNNI, measured on images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.graph import from_proto, to_proto
from lpcc.simulate.saturating import Cut, with_saturation
from lpcc.simulate.signs import with_activations

if TYPE_CHECKING:
    from lpcc.data import Dataset

_FLOAT = 1  # type of an ONNX tensor, for Cast
_MEASURES = ("signal", "lost", "cut", "outputs")


@dataclass(frozen=True)
class Saturation:
    """What saturation does to one layer."""

    layer: str
    tensor: str
    """What it makes."""
    share: float
    """Of all the layer's sums of two products, those that do not fit into 16 bits."""
    sqnr_db: float
    """The layer's result over what saturation takes from it; its input is that which it has there."""


def saturation(model: onnx.ModelProto, data: Dataset, *, batch: int = 4) -> list[Saturation]:
    """The layers of a Q/DQ model that saturate on the images of `data`, in the order of the graph.

    Raises:
        ModelError: the model cannot run.
        DataError: a sample turns out to be wrong.
    """
    from lpcc.runtime import Session, with_outputs

    graph = from_proto(model)
    with_activations(graph, "u8")
    cuts = with_saturation(graph)
    if not cuts:
        return []
    names = _watch(graph, cuts)
    wanted = [name for row in names for name in row]
    session = Session(with_outputs(to_proto(graph), wanted))
    totals = np.zeros((len(cuts), len(_MEASURES)))
    for one in data.batches(batch):
        found = session.run(one.feeds, wanted)
        totals += np.array([[float(found[name]) for name in row] for row in names])
    return [
        Saturation(
            cut.layer, cut.tensor, float(count / (outputs / len(cut.scales) * cut.pairs)), _decibels(signal, lost)
        )
        for cut, (signal, lost, count, outputs) in zip(cuts, totals, strict=True)
        if count
    ]


def _decibels(signal: float, lost: float) -> float:
    if lost <= 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(lost)) if signal > 0 else -math.inf


def _watch(graph: gs.Graph, cuts: list[Cut]) -> list[tuple[str, ...]]:
    """Add nodes that sum up what is measured of each layer; the names of these sums."""
    tensors = graph.tensors()
    with edit.Edit(graph) as editing:

        def add(op: str, inputs: list[gs.Tensor], **attrs: Any) -> gs.Tensor:
            made = editing.fresh("saturation_measured")
            editing.add(op, inputs, [made], attrs, name=made.name)
            return made

        found = []
        for cut in cuts:
            sums, lost = tensors[cut.sums], tensors[cut.lost]
            scales = cut.scales.astype(np.float32).reshape(-1, *[1] * (cut.rank - 2))
            scale = editing.constant("saturation_scale", scales)
            signal = add("Mul", [add("Cast", [sums], to=_FLOAT), scale])
            zero = editing.constant("saturation_zero", np.zeros((), dtype=np.float32))
            counts = [
                add(
                    "ReduceSum",
                    [add("Cast", [add("Not", [add("Equal", [tensors[name], zero])])], to=_FLOAT)],
                    keepdims=0,
                )
                for name in cut.excess
            ]
            found.append(
                (
                    add("ReduceSumSquare", [signal], keepdims=0),
                    add("ReduceSumSquare", [add("Mul", [lost, scale])], keepdims=0),
                    counts[0] if len(counts) == 1 else add("Sum", counts),
                    add("Size", [sums]),
                )
            )
    return [tuple(tensor.name for tensor in row) for row in found]

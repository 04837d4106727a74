"""What each layer of a rounded network adds to its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.pipeline.layers import can_skip

if TYPE_CHECKING:
    from lpcc.pipeline.runner import Record

CLEAN_DB = 60.0
"""SQNR above which a tensor counts as untouched; caps the damage of the first layer."""

_LEAST_DB = -60.0

Noise = Callable[[onnx.ModelProto, onnx.ModelProto, Sequence[str]], Mapping[str, float]]
"""From the exact model, the candidate and names of tensors that both have, to the SQNR in dB of each that has one shape
in both."""


@dataclass(frozen=True)
class LayerNoise:
    """A layer with the SQNR of its output in dB, and by how much that is below the SQNR of its noisiest input.

    A layer that merely hands on the noise of earlier ones does no damage of its own. Below 0, it quiets them.
    """

    layer: str
    sqnr_db: float
    damage_db: float
    alone: bool = False
    """Whether the SQNR is that of the model's outputs if nothing but this layer had changed, as its pass says."""

    @property
    def added(self) -> float:
        """Noise at its output that was not there before it, as a share of the signal: what adds up along a network."""
        after = max(_LEAST_DB, min(self.sqnr_db, CLEAN_DB))
        return _share(after) - _share(max(_LEAST_DB, after + self.damage_db))


def noise_of_records(
    exact: gs.Graph, reference: onnx.ModelProto, candidate: onnx.ModelProto, records: Sequence[Record], noise: Noise
) -> list[LayerNoise]:
    """The noise of the layers that passes touched, in the order of the graph; `records` is what they did.

    What a pass says itself comes first: a layer that loses channels makes its noise where others miss them. Besides,
    only layers count then that a pass can leave alone: what training made up for says nothing of one layer. `exact`,
    `reference`, `candidate` and `noise` are those of `noise_of_layers`.
    """
    told = {layer: damage for record in records for layer, damage in record.changes.damage.items()}
    others = [r for r in records if not r.changes.damage and (can_skip(r.item) or not told)]
    touched = {rewrite.node for record in others for rewrite in record.changes.rewrites}
    return [
        *(_told(layer, damage) for layer, damage in told.items()),
        *noise_of_layers(exact, reference, candidate, touched - told.keys(), noise),
    ]


def noise_of_layers(
    exact: gs.Graph, reference: onnx.ModelProto, candidate: onnx.ModelProto, layers: Collection[str], noise: Noise
) -> list[LayerNoise]:
    """The noise of the named layers of `exact`, whose ONNX form is `reference`, in a candidate; in the graph's order.

    Layers whose output the candidate does not make any more, or with another shape, are left out.
    """
    nodes = [node for node in exact.nodes if edit.label(node) in layers]
    made = {name for node in candidate.graph.node for name in node.output}
    wanted = {t.name for node in nodes for t in [*node.inputs, *node.outputs] if t.name in made and t.inputs}
    found = noise(reference, candidate, sorted(wanted)) if wanted else {}
    layers_found = []
    for node in nodes:
        after = min((found[t.name] for t in node.outputs if t.name in found), default=None)
        if after is not None:
            before = min((found[t.name] for t in node.inputs if t.name in found), default=CLEAN_DB)
            damage = min(before, CLEAN_DB) - min(after, CLEAN_DB)
            layers_found.append(LayerNoise(edit.label(node), after, damage))
    return layers_found


def worst(layers: Sequence[LayerNoise]) -> list[LayerNoise]:
    """The layers, those that do most damage first."""
    return sorted(layers, key=lambda layer: -layer.damage_db)


def loudest(layers: Sequence[LayerNoise]) -> list[LayerNoise]:
    """The layers, those that add the most noise first: early ones fall far from no noise, and yet add little."""
    return sorted(layers, key=lambda layer: -layer.added)


def _told(layer: str, damage: float) -> LayerNoise:
    """What a pass says of the noise that a layer makes at the outputs."""
    sqnr = -10 * math.log10(damage) if 0 < damage < math.inf else CLEAN_DB if damage == 0 else _LEAST_DB
    sqnr = max(_LEAST_DB, min(sqnr, CLEAN_DB))
    return LayerNoise(layer, sqnr, CLEAN_DB - sqnr, alone=True)


def _share(sqnr_db: float) -> float:
    return float(10 ** (-sqnr_db / 10))

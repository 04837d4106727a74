"""What each layer of a rounded network adds to its noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from lpcc import edit

CLEAN_DB = 60.0
"""SQNR above which a tensor counts as untouched; caps the damage of the first layer."""

_LEAST_DB = -60.0

Noise = Callable[[onnx.ModelProto, onnx.ModelProto, Sequence[str]], Mapping[str, float]]
"""From the exact model, the candidate and names of tensors that both have, to the SQNR of each in dB."""


@dataclass(frozen=True)
class LayerNoise:
    """A layer with the SQNR of its output in dB, and by how much that is below the SQNR of its noisiest input.

    A layer that merely hands on the noise of earlier ones does no damage of its own. Below 0, it quiets them.
    """

    layer: str
    sqnr_db: float
    damage_db: float

    @property
    def added(self) -> float:
        """Noise at its output that was not there before it, as a share of the signal: what adds up along a network."""
        after = max(_LEAST_DB, min(self.sqnr_db, CLEAN_DB))
        return _share(after) - _share(max(_LEAST_DB, after + self.damage_db))


def noise_of_layers(
    exact: gs.Graph, reference: onnx.ModelProto, candidate: onnx.ModelProto, layers: Collection[str], noise: Noise
) -> list[LayerNoise]:
    """The noise of the named layers of `exact`, whose ONNX form is `reference`, in a candidate; in the graph's order.

    Layers whose output the candidate does not make any more are left out.
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


def _share(sqnr_db: float) -> float:
    return float(10 ** (-sqnr_db / 10))

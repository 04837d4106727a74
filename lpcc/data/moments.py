"""How far the batch norms of a model are from the moments that they remember, for given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpcc.runtime.session import Session
from lpcc.runtime.spec import Array

if TYPE_CHECKING:
    import onnx

_WORST = 9.0  # a channel that is further off counts no more: dead channels have no spread to speak of


@dataclass(frozen=True)
class _Norm:
    """A batch norm: where its input's moments come out of the probe, and what it remembers (C,)."""

    mean: str
    square: str
    remembered_mean: Array
    remembered_std: Array


class MomentProbe:
    """A model changed to give, instead of its own outputs, the moments of each batch norm's input.

    Batch norms in training mode, within subgraphs, or on inputs other than (N, C, spatial...) are not looked at.
    Raises ModelError when onnxruntime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        probe, self._norms = _probe(model)
        self._session = Session(probe)

    def __len__(self) -> int:
        """Number of batch norms."""
        return len(self._norms)

    def run(self, feeds: Mapping[str, Array]) -> None:
        """Run the model for the sake of whether it runs. Raises ModelError when it cannot run on `feeds`."""
        self._session.run(feeds)

    def mismatch(self, batches: Iterable[Mapping[str, Array]]) -> float:
        """Mean of ``min(((m - mu) / sigma)^2 + log(s / sigma)^2, 9)``, over channels, then over batch norms.

        m and s are taken over all batches, which must be of one size. 0 when all inputs have the remembered moments.
        Raises ModelError when the model cannot run on the batches.
        """
        runs = [self._session.run(feeds) for feeds in batches]
        if not self._norms or not runs:
            return 0.0
        moments = {name: np.mean([_per_channel(run[name]) for run in runs], axis=0) for name in runs[0]}
        return float(np.mean([_distance(norm, moments) for norm in self._norms]))


def _distance(norm: _Norm, moments: Mapping[str, Array]) -> float:
    mean = moments[norm.mean]
    variance = moments[norm.square] - mean**2
    sigma = norm.remembered_std
    with np.errstate(all="ignore"):  # wild candidates overflow; they count as the worst
        spread = np.log(np.sqrt(np.maximum(variance, 1e-12)) / sigma)
        distance = ((mean - norm.remembered_mean) / sigma) ** 2 + spread**2
    return float(np.minimum(np.nan_to_num(distance, nan=_WORST), _WORST).mean())


def _per_channel(pooled: Array) -> Array:
    """Mean over the batch of (N, C, 1, ...), in float64."""
    mean: Array = pooled.reshape(pooled.shape[0], pooled.shape[1]).mean(axis=0, dtype=np.float64)
    return mean


def _probe(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[_Norm]]:
    import onnx
    from onnx import helper

    ranks = _ranks(model)
    constants = _constants(model)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    norms: list[_Norm] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or len(node.input) < 5:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        x, mean, variance = node.input[0], constants.get(node.input[3]), constants.get(node.input[4])
        if mean is None or variance is None or ranks.get(x, 0) < 3 or attributes.get("training_mode", 0):
            continue
        name = f"lpcc.probe.{index}"
        probe.graph.node.extend(
            [
                helper.make_node("GlobalAveragePool", [x], [f"{name}.mean"]),
                helper.make_node("Mul", [x, x], [f"{name}.squared"]),
                helper.make_node("GlobalAveragePool", [f"{name}.squared"], [f"{name}.square"]),
            ]
        )
        std = np.sqrt(np.maximum(variance.astype(np.float64), 0) + attributes.get("epsilon", 1e-5))
        norms.append(_Norm(f"{name}.mean", f"{name}.square", mean.astype(np.float64), std))
    if norms:  # without its own outputs the probe skips what lies behind the last batch norm
        del probe.graph.output[:]
        for norm in norms:
            probe.graph.output.extend([onnx.ValueInfoProto(name=norm.mean), onnx.ValueInfoProto(name=norm.square)])
    return probe, norms


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Ranks of the tensors, as far as ONNX's shape inference knows them."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: beyond protobuf's 2 GiB
        graph = model.graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for values in (graph.input, graph.value_info, graph.output)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Vectors among the weights, by name: initialisers and Constant nodes."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items() if len(tensor.dims) == 1}

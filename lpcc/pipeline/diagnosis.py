"""Why the worst layers of a rounded or smaller network are as bad as they are, and what could be done about each."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.analysis.integer import is_plain
from lpcc.analysis.quantized import LAYERS, QuantizedLayer, params_of, quantized_layers
from lpcc.formats.affine import Params, quantize
from lpcc.graph import to_proto
from lpcc.pipeline.noise import LayerNoise, worst
from lpcc.pipeline.syntax import Pipeline

if TYPE_CHECKING:
    from lpcc.data import Dataset
    from lpcc.simulate import Saturation

Array = np.ndarray[Any, Any]

Kind = Literal["clipping", "outliers", "resolution", "weights", "saturation", "arithmetic", "channels", "factors"]
"""What makes most of a layer's own noise."""

WORST = 5
"""Layers that are looked into."""
_FAR = 8.0
"""How many times the range of the median channel one channel takes for it to count as an outlier."""
_EIGHT = 8
_WIDER = ("clipping", "outliers", "resolution", "arithmetic")
"""What 16 bits of what a layer reads and writes help against."""
_HELPING: dict[str, tuple[tuple[str, ...], str]] = {
    "outliers": (("equalize",), "evens channels out"),
    "weights": (("adaround", "round-weights"), "rounds weights by what they do"),
}
"""Passes that help against a cause, and how."""


@dataclass(frozen=True)
class Cause:
    """The largest part of what a layer adds to the noise. `detail` is in words, as a clause: "its input is cut off"."""

    kind: Kind
    detail: str


@dataclass(frozen=True)
class Findings:
    """What is known of the layers of a quantised network: noise, the worst of them, those that saturate."""

    noise: tuple[LayerNoise, ...] = ()
    worst: tuple[Diagnosis, ...] = ()
    saturated: tuple[Saturation, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """One of the worst layers, with the cause of its noise and a remedy, each in a line."""

    noise: LayerNoise
    cause: Cause
    remedy: str


def diagnose(
    exact: gs.Graph,
    quantized: gs.Graph,
    noise: Sequence[LayerNoise],
    data: Dataset,
    ran: Collection[str],
    saturated: Sequence[Saturation] = (),
    wide: Collection[str] = (),
) -> list[Diagnosis]:
    """The layers that do most damage, at most five, the worst first; those that do none are left out.

    `exact` is the float graph that `quantized` was made of, `data` the few images to look at them with, `ran` the names
    of the passes that ran; `saturated` has the layers that saturate, `wide` the operators that the target has kernels
    for whose activations have 16 bits.

    Raises:
        ModelError: the float graph cannot run.
    """
    wanted = [layer for layer in worst(noise) if layer.damage_db > 0][:WORST]
    nodes = {edit.label(node): node for node in exact.nodes}
    found = [(layer, nodes[layer.layer]) for layer in wanted if layer.layer in nodes]
    if not found:
        return []
    layers = {edit.label(layer.node): layer for layer in quantized_layers(quantized)}
    results = {edit.label(node): node for node in quantized.nodes}
    values = _values(exact, [t.name for _, node in found for t in node.inputs if isinstance(t, gs.Variable)], data)
    cut = {one.layer: one for one in saturated}
    accurate = {item.name for item in Pipeline.parse("accurate")}
    diagnoses = []
    for layer, node in found:
        if layer.alone:
            lost = _lost(node, results.get(layer.layer))
            diagnoses.append(Diagnosis(layer, lost, remedy(lost.kind, layer.layer, ran, accurate)))
            continue
        if layer.layer not in layers and (cause := _of_factors(layer.layer, nodes, results, ran)):
            diagnoses.append(Diagnosis(layer, cause, remedy(cause.kind, layer.layer, ran, accurate)))
            continue
        cause = _cause(node, results.get(layer.layer), layers.get(layer.layer), values, cut.get(layer.layer))
        widens = _widens(node, results.get(layer.layer), wide)
        diagnoses.append(Diagnosis(layer, cause, remedy(cause.kind, layer.layer, ran, accurate, widens=widens)))
    return diagnoses


def remedy(kind: Kind, layer: str, ran: Collection[str], accurate: Collection[str], *, widens: bool = False) -> str:
    """What to do about a layer, as one would type it.

    `ran` has the names of the passes that were tried already, `accurate` those of the preset of that name. `widens`:
    the target has a kernel for the layer whose activations have 16 bits.
    """
    plain = "," not in layer and layer == layer.strip() and not layer.startswith('"')
    if kind == "factors":
        return f"factorize{{skip={json.dumps(layer, ensure_ascii=False)}}}"
    if kind == "channels":
        return f"{'trim' if 'trim' in ran else 'prune-channels'}{{skip={json.dumps(layer, ensure_ascii=False)}}}"
    keep = f"--keep {shlex.quote(layer if plain else json.dumps(layer, ensure_ascii=False))}"
    if widens and kind in _WIDER:
        keep = f"quantize{{bits={json.dumps(f'{layer}=16', ensure_ascii=False)}}}, or {keep}"
    if kind == "saturation":
        return f"quantize{{reduce-range=true}}, or {keep}"
    if kind == "clipping":
        return f"quantize{{ranges=minmax}}, or {keep}"
    helping = _HELPING.get(kind)
    if helping is None or any(name in ran for name in helping[0]):
        return keep
    names, how = helping
    where = "--preset accurate" if any(name in accurate for name in names) else f"the pass {names[0]}"
    return f"{where} {how}, or {keep}"


def _values(exact: gs.Graph, names: list[str], data: Dataset) -> dict[str, Array]:
    """What the named tensors hold, over all images of `data`."""
    from lpcc.runtime import Session, with_outputs

    model = to_proto(exact)
    made = {name for node in model.graph.node for name in node.output}
    inner = [name for name in dict.fromkeys(names) if name in made]
    session = Session(with_outputs(model, inner), optimise=False)
    parts: dict[str, list[Array]] = {name: [] for name in dict.fromkeys(names)}
    for batch in data.batches(4):
        found = {**batch.feeds, **session.run(batch.feeds, inner)}
        for name, arrays in parts.items():
            if isinstance(found.get(name), np.ndarray):
                arrays.append(batch.valid(found[name]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays and _alike(arrays)}


def _alike(arrays: list[Array]) -> bool:
    return len({array.shape[1:] for array in arrays}) == 1


def _cause(
    node: gs.Node,
    result: gs.Node | None,
    layer: QuantizedLayer | None,
    values: Mapping[str, Array],
    saturation: Saturation | None,
) -> Cause:
    """What makes most of the noise that a node adds."""
    operands = _operands(node, result, values)
    if not operands:
        return Cause("arithmetic", "its integer kernel rounds")
    parts: dict[Kind, float] = {"clipping": 0.0, "resolution": 0.0}
    signal = 0.0
    for index, exact, params in operands:
        cut = np.clip(exact, params.low, params.high)
        rounded = (quantize(exact, params).astype(np.float32) - params.zero_point) * params.scale
        signal += _energy(node, index, exact)
        parts["clipping"] += _energy(node, index, cut - exact)
        parts["resolution"] += _energy(node, index, rounded - cut)
    if layer is not None:
        parts["weights"] = _energy_of_weights(node, layer, operands[0][1])
    if saturation is not None and math.isfinite(saturation.sqnr_db):
        parts["saturation"] = signal * 10 ** (-saturation.sqnr_db / 10)
    kind = max(parts, key=lambda key: parts[key])
    if kind == "saturation" and saturation is not None:
        return Cause(kind, f"{share(saturation.share)} of its 16-bit sums are cut off")
    if kind == "weights" and layer is not None:
        why = [f"{layer.bits} bits"] if layer.bits < _EIGHT else []
        why += ["one scale for all"] if layer.weights.axis is None else []
        return Cause(kind, f"its weights are coarse{': ' if why else ''}{', '.join(why)}")
    _, exact, params = max(operands, key=lambda operand: float(np.square(operand[1]).sum()))
    if kind == "clipping":
        outside = float(np.mean((exact < params.low) | (exact > params.high)))
        return Cause(kind, f"its input's range cuts off {share(outside)} of the values")
    return _coarse(exact, 8 * params.dtype.itemsize)


def _lost(node: gs.Node, result: gs.Node | None) -> Cause:
    """How many channels of a layer went, by the shapes of its result."""
    shapes = [node.outputs[0].shape, result.outputs[0].shape if result is not None else None]
    pairs = zip(*(shape or () for shape in shapes), strict=False)
    lost = [(was - now, was) for was, now in pairs if isinstance(was, int) and isinstance(now, int) and now < was]
    return Cause("channels", f"{lost[0][0]} of its {lost[0][1]} channels went" if lost else "channels of it went")


def _of_factors(
    layer: str, before: Mapping[str, gs.Node], after: Mapping[str, gs.Node], ran: Collection[str]
) -> Cause | None:
    """How many layers, named for it, stand for one; None where factors have nothing to do with its noise."""
    new = [name for name, node in after.items() if name.startswith(f"{layer}/") and edit.op(node) in LAYERS]
    added = [name for name in new if name not in before]
    if added:
        return Cause("factors", f"{len(added) + 1} layers stand for it")
    if "factorize" in ran and not any(edit.op(node) == "DequantizeLinear" for node in after.values()):
        return Cause("factors", "it makes up for layers before it")
    return None


def share(part: float) -> str:
    """A share as people read it: in percent, or one in so many where it is tiny."""
    return f"{100 * part:.2g} %" if part >= 1e-4 else f"1 in {round(1 / part):,}" if part > 0 else "none"


def _operands(node: gs.Node, result: gs.Node | None, values: Mapping[str, Array]) -> list[tuple[int, Array, Params]]:
    """The quantised inputs of a node: their index, what they hold in float, and how they are quantised."""
    if result is None:
        return []
    found = []
    for index, tensor in enumerate(node.inputs):
        params = params_of(result.inputs[index]) if index < len(result.inputs) else None
        if params is not None and tensor.name in values:
            found.append((index, values[tensor.name], params))
    return found


def _widens(node: gs.Node, result: gs.Node | None, wide: Collection[str]) -> bool:
    """Whether there is a kernel in 16 bits for a layer with weights that reads fewer; others follow their layers."""
    if edit.op(node) not in LAYERS or edit.op(node) not in wide or result is None:
        return False
    read = [params_of(tensor) for tensor in result.inputs[:1]]
    return is_plain(node) and all(params is not None and params.dtype.itemsize == 1 for params in read)


def _coarse(exact: Array, bits: int) -> Cause:
    """Whether a channel (axis 1) takes up the range of all."""
    if exact.ndim > 1 and exact.shape[1] > 1:
        others = tuple(axis for axis in range(exact.ndim) if axis != 1)
        reach = np.maximum(exact.max(axis=others), -exact.min(axis=others))
        typical = float(np.median(reach))
        if typical > 0 and float(reach.max()) > _FAR * typical:
            far = int(reach.argmax())
            return Cause(
                "outliers", f"channel {far} of its input reaches {reach.max() / typical:.0f} times as far as most"
            )
    return Cause("resolution", f"{bits} bits are coarse for its input")


def _energy(node: gs.Node, index: int, error: Array) -> float:
    """Energy at a node's output of an error in one of its inputs; of the error itself where the node is no product."""
    if index == 0 and edit.op(node) in ("Conv", "Gemm", "MatMul") and isinstance(node.inputs[1], gs.Constant):
        return _through(node, error, np.asarray(node.inputs[1].values))
    return float(np.square(error.astype(np.float64)).sum())


def _energy_of_weights(node: gs.Node, layer: QuantizedLayer, exact: Array) -> float:
    """Energy at a layer's output of what its weights lost."""
    weights = node.inputs[1]
    if not isinstance(weights, gs.Constant) or edit.op(node) not in ("Conv", "Gemm", "MatMul"):
        return 0.0
    scaled = layer.weights.values / float(edit.attr(node, "alpha", 1.0))
    if scaled.shape != np.shape(weights.values):
        return 0.0
    return _through(node, exact, scaled - np.asarray(weights.values, dtype=np.float64))


def _through(node: gs.Node, values: Array, weights: Array) -> float:
    """Energy of what a layer with these weights and no bias makes of `values`."""
    from onnx import helper, numpy_helper

    from lpcc.runtime import Session

    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if isinstance(v, (int, float, str, list))}
    graph = helper.make_graph(
        [helper.make_node(edit.op(node), ["x", "w"], ["y"], **attrs)],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None] * values.ndim)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = Session(model)
    # The first axis of a Conv is that of the images: one at a time takes little memory.
    parts = np.split(values, len(values)) if edit.op(node) == "Conv" else [values]
    energy = 0.0
    for part in parts:
        found = session.run({"x": part.astype(np.float32, copy=False)})["y"]
        energy += float(np.square(found.astype(np.float64)).sum())
    return energy

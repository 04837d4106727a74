"""Cuts the graph that a runtime executes into networks of one kernel each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from lpcc.analysis.shapes import bind
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto


@dataclass(frozen=True)
class Layer:
    """A node of an executed graph, alone in a model."""

    name: str
    op: str
    model: onnx.ModelProto


def static(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the sizes that the cost model assumes for open dimensions."""
    graph = from_proto(model)
    annotate(graph)
    shapes = bind(graph)
    for tensor in graph.inputs:
        tensor.shape = list(shapes.of(tensor) or ())
    return to_proto(graph)


def cut(executed: onnx.ModelProto, seed: int = 0) -> Iterator[Layer]:
    """The layers of an optimised graph, in order. Runs it once on this host to learn the shapes in between."""
    types = _types(executed, np.random.default_rng(seed))
    constants = {tensor.name: tensor for tensor in executed.graph.initializer}
    for node in executed.graph.node:
        read = [name for name in dict.fromkeys(node.input) if name and name not in constants]
        if any(name not in types for name in (*read, *(name for name in node.output if name))):
            continue
        graph = helper.make_graph(
            [node],
            "layer",
            [_info(name, types[name]) for name in read],
            [_info(name, types[name]) for name in node.output if name],
            [constants[name] for name in dict.fromkeys(node.input) if name in constants],
        )
        model = helper.make_model(graph, opset_imports=executed.opset_import, ir_version=executed.ir_version)
        yield Layer(node.name, node.op_type, model)


def _info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _types(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every activation of the model for random inputs."""
    import onnxruntime as ort

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    already = {value.name for value in shown.graph.output}
    made = [name for node in shown.graph.node for name in node.output if name and name not in already]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in constants:
            kind = value.type.tensor_type
            shape = [dim.dim_value or 1 for dim in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = (rng.random(shape) * (1 if dtype == np.float32 else 100)).astype(dtype)
    names = [output.name for output in session.get_outputs()]
    found: dict[str, np.ndarray] = dict(zip(names, session.run(names, feeds), strict=True))
    return {**feeds, **{name: array for name, array in found.items() if isinstance(array, np.ndarray)}}

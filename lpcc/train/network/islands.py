"""Frozen islands: nodes that torch cannot run, run by onnxruntime where no gradient has to pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch

from lpcc import edit
from lpcc.errors import ModelError
from lpcc.graph import to_proto
from lpcc.runtime import Session
from lpcc.train.operators import Kernel
from lpcc.train.tensors import array_of, tensor_of

Array = np.ndarray[Any, Any]
Tensor = Any

_IR = 10  # nothing that a model of one node needs came later


def island(node: gs.Node, graph: gs.Graph, constants: Sequence[Array | None]) -> Kernel:
    """A kernel that runs one node in onnxruntime. Results are on the CPU.

    `constants` are the values of those inputs that are known. The session is made once: now, if the types of the other
    inputs are known, else when the first tensors come.

    Raises:
        ModelError: onnxruntime does not know the operator either; the node has subgraphs.
    """
    where = f"node `{edit.label(node)}` ({edit.op(node)})"
    if edit.subgraphs(node):
        raise ModelError(f"{where} has subgraphs and an operator that cannot be run in torch")
    places = [index for index, tensor in enumerate(node.inputs) if tensor.name and constants[index] is None]
    types = [None if node.inputs[index].dtype is None else np.dtype(node.inputs[index].dtype) for index in places]
    sessions: dict[tuple[Any, ...], Session] = {}

    def session(found: tuple[Any, ...]) -> Session:
        if found not in sessions:
            try:
                sessions[found] = Session(
                    _model(node, graph, constants, dict(zip(places, found, strict=True))), optimise=False
                )
            except ModelError as error:
                raise ModelError(f"{where} can be run neither in torch nor in onnxruntime: {error}") from None
        return sessions[found]

    if all(kind is not None for kind in types):
        session(tuple(types))

    def kernel(*tensors: Tensor) -> Any:
        arrays = [
            tensors[index].detach().cpu().numpy() if kind is None else array_of(tensors[index], kind)
            for index, kind in zip(places, types, strict=True)
        ]
        found = session(tuple(array.dtype for array in arrays))
        results = found.run({f"x{index}": array for index, array in zip(places, arrays, strict=True)})
        values = [tensor_of(results[f"y{i}"]) if tensor.name else None for i, tensor in enumerate(node.outputs)]
        return values[0] if len(values) == 1 else values

    return kernel


def _model(node: gs.Node, graph: gs.Graph, constants: Sequence[Array | None], types: dict[int, Any]) -> onnx.ModelProto:
    """The model of one node: its constants stay constants, for kernels that want them so."""
    inputs: list[gs.Tensor] = []
    for index, tensor in enumerate(node.inputs):
        value = constants[index]
        if not tensor.name:
            inputs.append(gs.Variable.empty())
        elif value is not None:
            inputs.append(gs.Constant(f"x{index}", value))
        else:
            rank = None if tensor.shape is None else [None] * len(tensor.shape)
            inputs.append(gs.Variable(f"x{index}", dtype=types[index], shape=rank))
    outputs = [
        gs.Variable(f"y{index}", dtype=tensor.dtype) if tensor.name else gs.Variable.empty()
        for index, tensor in enumerate(node.outputs)
    ]
    alone = gs.Node(op=node.op, name=node.name, domain=node.domain, attrs=dict(node.attrs))
    edit.link(alone, inputs, outputs)
    made = gs.Graph(
        nodes=[alone],
        inputs=[inputs[index] for index in types],
        outputs=[tensor for tensor in outputs if tensor.name],
        opset=_since(node, int(graph.opset)),
        import_domains=[stated for stated in graph.import_domains or () if stated.domain == (node.domain or "")],
    )
    model = to_proto(made)
    model.ir_version = min(model.ir_version, _IR)
    return model


def _since(node: gs.Node, opset: int) -> int:
    """The opset since which an operator is what it is: onnxruntime refuses what is too new for it by its number."""
    try:
        return int(onnx.defs.get_schema(node.op, opset, node.domain or "").since_version)
    except onnx.defs.SchemaError:
        return opset


def to_device(device: Sequence[Any]) -> Kernel:
    """A kernel that moves a tensor to the device that is the one element of `device` at the time."""

    def kernel(value: Any) -> Any:
        return value.to(device[0]) if isinstance(value, torch.Tensor) else value

    return kernel


def to_host(value: Any) -> Any:
    """A tensor from which shapes or conditions are computed, on the CPU."""
    return value.cpu() if isinstance(value, torch.Tensor) else value

"""The door: the one place where ONNX models become graphs and graphs become models.

Passes edit an `onnx_graphsurgeon.Graph`. Its own import and export lose data (metadata, several attribute kinds,
function overloads, small number formats, the opset), so lpcc has its own, which lose nothing.

A graph that came through this door has, beyond what graphsurgeon gives it: variables with `dtype` (a NumPy or
ml_dtypes type) and `shape` (an int, a name or None for each dimension); graph inputs with `default`, the constant that
stands for the input where the caller leaves it out, else None; and everything else of the model in attributes
`carried`, written back untouched. A graph of which it is known how large its inputs are has `sizes`: for open
dimensions, by place (``images[2]``), the size that costs are told for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcc import edit
from lpcc.door import exporter, files, importer
from lpcc.errors import ModelError, PassError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def load(path: str | Path) -> gs.Graph:
    """Read a model from a file, with its external data, and check it.

    Raises:
        ModelError: the file is missing, empty, damaged or no ONNX model; the checker refuses it; a tensor's data does
            not match its shape; external data lies outside the model's folder or past the end of its file.
    """
    path = Path(path)
    model, sources = files.read_all(path)
    try:
        graph = importer.import_model(model)
        to_proto(graph)  # what cannot be written again must be refused now, not after an hour of work
    except (ModelError, PassError) as error:
        raise ModelError(f"{path}: {error}") from error
    except UnicodeError as error:
        raise ModelError(f"{path}: a name in the model is not UTF-8: {error}") from error
    graph.sources = sources
    return graph


def save(graph: gs.Graph, path: str | Path, *, overwrite_input: bool = False) -> None:
    """Write a graph to a file: whole or not at all.

    Weights go to ``<path>.data`` beside the model where the model would exceed protobuf's 2 GB.

    Raises:
        UsageError: the path cannot be written, or is a file that the graph was loaded from and `overwrite_input` is
            not set.
    """
    path = Path(path)
    if not overwrite_input:
        files.refuse_input(path, *graph.__dict__.get("sources", ()))
    files.write(to_proto(graph), path)


def from_proto(model: onnx.ModelProto) -> gs.Graph:
    """Graph of a model in memory, whose local functions are inlined.

    The tensors are shared with the model, which must not be changed afterwards.

    Raises:
        ModelError: a local function cannot be inlined.
    """
    return importer.import_model(model)


def to_proto(graph: gs.Graph) -> onnx.ModelProto:
    """Model of a graph. Shares nothing with it.

    Raises:
        PassError: two tensors share a name, or an attribute has a value that ONNX has no type for.
    """
    return exporter.export_model(graph)


def clone(graph: gs.Graph) -> gs.Graph:
    """Independent copy of a graph with all its subgraphs; only the arrays of the constants are shared."""
    copied = _clone(graph, {})
    for name in ("producer_name", "producer_version", "ir_version"):
        setattr(copied, name, getattr(graph, name))
    copied.import_domains = None if graph.import_domains is None else list(graph.import_domains)
    edit.index_names(copied)
    return copied


def _clone(graph: gs.Graph, tensors: dict[int, gs.Tensor]) -> gs.Graph:
    import onnx_graphsurgeon as gs

    def tensor(old: gs.Tensor) -> gs.Tensor:
        if not old.name:
            return gs.Variable.empty()
        if id(old) not in tensors:
            if isinstance(old, gs.Constant):
                new = gs.Constant(old.name, old._values)
            else:
                new = gs.Variable(old.name, old.dtype, None if old.shape is None else list(old.shape), old.type)
            for name in ("carried", "default"):
                if hasattr(old, name):
                    setattr(new, name, getattr(old, name))
            tensors[id(old)] = new
        return tensors[id(old)]

    def attribute(value: Any) -> Any:
        if isinstance(value, gs.Graph):
            return _clone(value, tensors)
        if isinstance(value, list):
            return [attribute(item) for item in value]
        return value

    inputs = [tensor(t) for t in graph.inputs]
    nodes = []
    for old in graph.nodes:
        new = gs.Node(op=old.op, name=old.name, domain=old.domain)
        if hasattr(old, "carried"):
            new.carried = old.carried
        edit.link(new, [tensor(t) for t in old.inputs], [tensor(t) for t in old.outputs])
        new.attrs.update({name: attribute(value) for name, value in old.attrs.items()})
        nodes.append(new)
    copied = gs.Graph(
        nodes=nodes,
        inputs=inputs,
        outputs=[tensor(t) for t in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
    )
    copied.name = graph.name
    for name in ("carried", "carried_model", "sizes", "sources"):
        if name in graph.__dict__:
            setattr(copied, name, graph.__dict__[name])
    copied.loose = [tensor(t) for t in graph.__dict__.get("loose", [])]
    return copied

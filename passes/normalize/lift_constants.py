"""`lift-constants`: Constant nodes become initialisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from lpcc import edit
from lpcc.door.lazy import Sparse
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass, Range


@dataclass(frozen=True)
class LiftConstants(LocalPass):
    """Turn Constant nodes into initialisers, so that every weight is found in one place.

    All forms of the operator are lifted: `value`, `value_float`, `value_floats`, `value_int`, `value_ints`,
    `value_string`, `value_strings` and, as a dense tensor, `sparse_value`. The tensor keeps its name. A Constant that
    is itself a graph output becomes an initialiser that is a graph output.

    Left alone: a sparse value whose dense form is larger than `limit` bytes.
    """

    name: ClassVar[str] = "lift-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    limit: Annotated[int, Range(min=0)] = 2**20

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:  # noqa: ARG002
        """Lift the Constant nodes of one graph."""
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) != "Constant":
                    continue
                values = _values(node)
                if isinstance(values, Sparse):
                    if values.nbytes > self.limit:
                        changes.refuse(node, f"its dense form takes {values.nbytes} bytes")
                        continue
                    values = values.load()
                if values is None:
                    changes.refuse(node, "its value is of an unknown kind")
                    continue
                if not e.settle(node.outputs[0], values):
                    changes.refuse(node, "a nested graph returns it")
                    continue
                changes.done(node, "Constant node made an initialiser")
                e.remove(node)


def _values(node: gs.Node) -> Any:
    """What a Constant node holds: an array, or values not yet read; None where its attribute is not known."""
    ((name, value),) = node.attrs.items()
    if isinstance(value, gs.Constant):
        return value._values
    if isinstance(value, onnx.AttributeProto) and value.type == onnx.AttributeProto.SPARSE_TENSOR:
        return Sparse(value.sparse_tensor)
    if isinstance(value, onnx.AttributeProto):
        value = list(value.strings) if value.strings else value.s
    dtype: Any = {"float": np.float32, "int": np.int64, "string": object}.get(name.removeprefix("value_").rstrip("s"))
    return None if dtype is None else np.array(value, dtype=dtype)

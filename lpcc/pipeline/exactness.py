"""The check after the exact passes: a sound model, the same interface, the same outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from lpcc import edit, equality
from lpcc.analysis.purity import RANDOM, trains
from lpcc.door import files
from lpcc.errors import ModelError, PassError
from lpcc.graph import to_proto

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.data import Dataset
    from lpcc.runtime import Session

_SAMPLES = 2
_HINT = "find the pass with `lpcc bisect`"


def check_exact(original: onnx.ModelProto, graph: gs.Graph, reference: Session | None, data: Dataset) -> str | None:
    """Check that `graph` is still the model `original`, up to rounding.

    ONNX's checker accepts it; names, types and order of inputs and outputs are kept; on the first samples of `data` its
    outputs in onnxruntime, with optimisation off, equal those of the session `reference`.

    Returns:
        Why outputs were not compared, where they could not be; None where they were.

    Raises:
        PassError: a pass that claims to be exact is not.
    """
    model = to_proto(graph)
    try:
        files.check(model, "the model after the exact passes")
    except ModelError as error:
        raise PassError(f"{error}; {_HINT}") from error
    change = equality.interface_change(original, model)
    if change is not None:
        raise PassError(f"the exact passes changed the interface: {change}; {_HINT}")
    if reference is None:
        return "onnxruntime cannot run the model"
    if any(edit.op(node) in RANDOM or trains(node, graph.opset) for node in edit.nodes(graph)):
        return "the model holds random operators"
    return _compare(model, reference, data)


def _compare(model: onnx.ModelProto, reference: Session, data: Dataset) -> str | None:
    from lpcc.runtime import Session

    feeds = next(iter(data.batches(_SAMPLES))).feeds
    try:
        expected = reference.run(feeds)
    except ModelError as error:
        if not data.is_synthetic:
            raise
        return f"the model does not run on made-up inputs: {error}"
    found = Session(model, optimise=False).run(feeds)
    name, distance = equality.largest_difference(expected, found)
    if distance > equality.TOLERANCE:
        raise PassError(f"the exact passes changed output `{name}` by {distance:.3g} of its magnitude; {_HINT}")
    return None

"""The check after the exact passes: a sound model, the same interface, the same outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from lpcc import edit, equality
from lpcc.analysis.purity import RANDOM, trains
from lpcc.door import files
from lpcc.errors import ModelError, PassError
from lpcc.runtime.spec import TensorSpec, unlike

if TYPE_CHECKING:
    from lpcc.data import Dataset
    from lpcc.pipeline.variant import Variant
    from lpcc.runtime import Session

_SAMPLES = 2
_ROUNDINGS = 8
"""How many times as far as its inputs' rounding may move an output, the rounding of all its layers may."""
_HINT = "find the pass with `lpcc bisect`"


def check_exact(original: Variant, exact: Variant, reference: Session | None, data: Dataset | None) -> str | None:
    """Check that `exact` is still the model `original`, up to rounding.

    ONNX's checker accepts it; names, types and order of inputs and outputs are kept; on the first samples of `data` its
    outputs in onnxruntime, with optimisation off, equal those of the session `reference`. Equal is what differs by no
    more than float32 rounds in a network, or than the outputs of `original` itself move when its inputs are rounded.

    Returns:
        Why outputs were not compared, where they could not be; None where they were.

    Raises:
        PassError: a pass that claims to be exact is not.
    """
    try:
        files.check(exact.model, "the model after the exact passes")
    except ModelError as error:
        _refuse_false_shapes(original.model, exact.model)
        raise PassError(f"{error}; {_HINT}") from error
    change = equality.interface_change(original.model, exact.model)
    if change is not None:
        raise PassError(f"the exact passes changed the interface: {change}; {_HINT}")
    if reference is None:
        return "onnxruntime cannot run the model"
    if data is None:
        return "the model's inputs cannot be made up"
    if any(edit.op(node) in RANDOM or trains(node, exact.graph.opset) for node in edit.nodes(exact.graph)):
        return "the model holds random operators"
    return _compare(original.model, exact.model, reference, data)


def _refuse_false_shapes(original: onnx.ModelProto, exact: onnx.ModelProto) -> None:
    """Raise ModelError if all that is wrong with `exact` are the shapes that `original` states of its outputs.

    Shape inference sees more of the truth once constants are folded.
    """
    untold = onnx.ModelProto()
    untold.CopyFrom(exact)
    for output in untold.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(untold, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError:
        return
    apart = unlike(TensorSpec.outputs_of(original), TensorSpec.outputs_of(inferred))
    if apart is not None:
        raise ModelError(
            f"the model states of an output that it is {apart[0]}, and makes {apart[1]}: correct what it states"
        )


def _compare(original: onnx.ModelProto, exact: onnx.ModelProto, reference: Session, data: Dataset) -> str | None:
    from lpcc.runtime import Session

    feeds = next(iter(data.batches(_SAMPLES))).feeds
    try:
        expected = reference.run(feeds)
    except ModelError as error:
        if not data.is_synthetic:
            raise
        return f"the model does not run on made-up inputs, give --calib: {error}"
    try:
        found = Session(exact, optimise=False).run(feeds)
    except ModelError as error:
        raise PassError(f"after the exact passes {error}; {_HINT}") from error
    name, distance = equality.largest_difference(expected, found)
    if distance <= equality.TOLERANCE:
        return None
    moved = equality.sensitivity(original, reference, feeds, expected)
    for name, value in expected.items():
        distance = equality.relative_difference(value, found.get(name))
        if distance > max(equality.TOLERANCE, _ROUNDINGS * moved[name]):
            raise PassError(f"the exact passes changed output `{name}` by {distance:.3g} of its magnitude; {_HINT}")
    return None

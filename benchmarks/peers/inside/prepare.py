"""The model as its users prepare it for the other tools: `prepare.py MODEL RESULT`.

Weights that are listed as inputs are so no more, as onnxruntime folds no such weights; onnx's own converter raises a
file of an opset below 13, in which weights cannot have a scale for each channel; then onnxruntime's `quant_pre_process`
folds batch norms and infers shapes. A step that fails is left out. In the end every node has a name of its own, which
some tools rely on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

_OPSET = 13
_IR = 7  # of that opset; from 4 on, initialisers need not be inputs


def with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its initialisers as constants and not as inputs with default values."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _IR)
    return model


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name for each node that has none."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_number_{index}"
    return model


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset of 13 or above; as it is if it cannot be converted or onnxruntime refuses the result."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= _OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, _OPSET)
        onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the converter and onnxruntime raise what they like
        print(f"opset {opset} stays: {error}", file=sys.stderr)
        return model
    return converted


def prepared(model: onnx.ModelProto, result: Path) -> None:
    """Write the model after onnxruntime's preparation, without symbolic shapes where that gives up on them."""
    source = result.with_suffix(".raised.onnx")
    onnx.save(model, source)
    for options in ({}, {"skip_symbolic_shape": True}):
        try:
            quant_pre_process(source, result, **options)
        except Exception as error:
            print(f"prepared with {options}: {error}", file=sys.stderr)
        else:
            break
    else:
        onnx.save(model, result)
    source.unlink()
    onnx.save(named(onnx.load(result)), result)


if __name__ == "__main__":
    onnxruntime.set_default_logger_severity(3)
    prepared(raised(with_constants(onnx.load(sys.argv[1]))), Path(sys.argv[2]))

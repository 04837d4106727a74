"""Networks that no fit of instructions sees: what the formulas are checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx

from lpcc.targets.fit.instructions.layers import static
from lpcc.targets.fit.networks import mobilenets, nasbench201, resnets, shufflenets, stm32
from lpcc.targets.fit.networks.qdq import quantized

_CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"

BUILT: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet_v1-0.5-96": lambda: stm32.mobilenet_v1(96, 0.5, classes=1000),
    "mobilenet_v2-0.5-96": lambda: mobilenets.mobilenet_v2(96, 0.5),
    "mobilenet_v2-1.0-64": lambda: mobilenets.mobilenet_v2(64, 1.0),
    "mobilenet_v3-1.0-96": lambda: mobilenets.mobilenet_v3_small(96, 1.0),
    "shufflenet_v2-0.5-96": lambda: shufflenets.shufflenet_v2(96, 0.5),
    "shufflenet_v2-1.0-64": lambda: shufflenets.shufflenet_v2(64, 1.0),
    "resnet18-0.5-64": lambda: resnets.resnet18(64, 0.5),
    "resnet18-0.25-112": lambda: resnets.resnet18(112, 0.25),
    "squeezenet-96": lambda: resnets.squeezenet(96),
    "nasbench201-32": lambda: nasbench201.network(_CELL),
}
"""Built networks by name."""


def unseen(zoo: Path | None = None) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Networks with the format as the end of their names; those of the zoo where its models are in that folder.

    The zoo's int8 networks are what `lpcc optimize` makes of its float ones, without images.
    """
    for name, build in BUILT.items():
        model = build()
        yield f"{name}-float32", model
        yield f"{name}-int8", quantized(model)
    for path in sorted(zoo.glob("*.onnx")) if zoo else ():
        yield f"{path.stem}-float32", static(onnx.load(path))
        small = optimized(path)
        if any(node.op_type == "QuantizeLinear" for node in small.graph.node):
            yield f"{path.stem}-int8", static(small)


def optimized(path: Path) -> onnx.ModelProto:
    """The int8 form of a model file, by the compiler itself. What it does to accuracy is of no interest here."""
    import lpcc

    pipeline = "exact,quantize"
    result = lpcc.optimize(path, target="arm-cortex-a72", pipeline=pipeline, min_agreement=0.0, min_sqnr=-100.0)
    model: onnx.ModelProto = result.model
    return model

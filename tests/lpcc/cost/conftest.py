"""Networks to price: MobileNet's blocks, in float and with Q/DQ in the places that a test wants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto

Blocks = Callable[..., gs.Graph]


def blocks(scheme: str | None = None, *, islands: bool = False, count: int = 6, channels: int = 64) -> gs.Graph:
    """Depthwise 3x3, ReLU, 1x1, ReLU, `count` times, on 28x28.

    `scheme` is ``u8s8`` or ``s8s8`` for a fully quantised network. With `islands` a HardSigmoid stands between each
    depthwise convolution and the Q/DQ after it, which keeps that convolution in float.
    """
    nodes, constants = [], {}
    kind = np.uint8 if scheme == "u8s8" else np.int8
    if scheme:
        low = int(np.iinfo(kind).min)
        constants = {"s": np.float32(0.05), "z": kind(low), "sw": np.full(channels, 0.01, np.float32)}
        constants["zw"] = np.zeros(channels, np.int8)

    def add(op: str, inputs: list[str], output: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))
        return output

    def quantised(tensor: str) -> str:
        if not scheme:
            return tensor
        return add(
            "DequantizeLinear", [add("QuantizeLinear", [tensor, "s", "z"], f"{tensor}_q"), "s", "z"], f"{tensor}_d"
        )

    def conv(tensor: str, name: str, shape: tuple[int, ...], **attrs: object) -> str:
        constants[f"{name}_w"] = np.zeros(shape, np.int8 if scheme else np.float32)
        weight = f"{name}_w"
        if scheme:
            weight = add("DequantizeLinear", [weight, "sw", "zw"], f"{name}_wd", axis=0)
        return add("Conv", [tensor, weight], name, **attrs)

    tensor = quantised("x")
    for i in range(count):
        tensor = conv(tensor, f"dw{i}", (channels, 1, 3, 3), group=channels, pads=[1] * 4)
        tensor = add("HardSigmoid" if islands else "Relu", [tensor], f"act{i}")
        tensor = quantised(tensor)
        tensor = quantised(add("Relu", [conv(tensor, f"pw{i}", (channels, channels, 1, 1))], f"out{i}"))
    shape = [1, channels, 28, 28]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    loaded = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    annotate(loaded)
    return loaded


@pytest.fixture
def mobile() -> Blocks:
    """`blocks` above."""
    return blocks

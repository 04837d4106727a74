"""Networks like MobileNetV2 and V3: inverted residuals, squeeze and excite, hard swish."""

from __future__ import annotations

import onnx

from lpcc.targets.fit.networks.builder import Activation, Builder, Tensor


def _width(channels: float) -> int:
    """Channels rounded to a multiple of 8, never by more than a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Stages of MobileNetV2: expansion, channels, blocks, stride of the first (Sandler et al. 2018, table 2)."""


def mobilenet_v2(size: int = 96, width: float = 0.5, classes: int = 1000) -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al. 2018)."""
    net = Builder(f"mobilenet_v2_{width}_{size}")
    x = net.conv(net.input(1, 3, size, size), _width(32 * width), 3, 2, (1, 1, 1, 1), "relu6")
    for expand, channels, repeats, stride in V2_STAGES:
        for step in range(repeats):
            x = _inverted(net, x, expand * x.channels, _width(channels * width), 3, 1 if step else stride, "relu6")
    x = net.conv(x, _width(1280 * max(width, 1.0)), 1, activation="relu6")
    return net.model(net.dense(net.flatten(net.global_pool(x)), classes))


def mobilenet_v3_small(size: int = 96, width: float = 1.0, classes: int = 1000) -> onnx.ModelProto:
    """MobileNetV3-Small (Howard et al. 2019)."""
    net = Builder(f"mobilenet_v3_{width}_{size}")
    x = net.conv(net.input(1, 3, size, size), _width(16 * width), 3, 2, (1, 1, 1, 1), "hard_swish")
    for kernel, expand, channels, excite, activation, stride in (
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ):
        how: Activation = "relu" if activation == "relu" else "hard_swish"
        x = _inverted(net, x, _width(expand * width), _width(channels * width), kernel, stride, how, excite=excite)
    x = net.global_pool(net.conv(x, _width(576 * width), 1, activation="hard_swish"))
    return net.model(net.dense(net.activate(net.dense(net.flatten(x), 1024), "hard_swish"), classes))


def _inverted(
    net: Builder,
    x: Tensor,
    expand: int,
    filters: int,
    kernel: int,
    stride: int,
    activation: Activation,
    *,
    excite: bool = False,
) -> Tensor:
    y = x if expand == x.channels else net.conv(x, expand, 1, activation=activation)
    pad = kernel // 2
    y = net.depthwise(y, kernel, stride, (pad, pad, pad, pad), activation)
    if excite:
        squeezed = net.conv(net.global_pool(y), _width(y.channels / 4), 1, activation="relu")
        y = net.mul(y, net.conv(squeezed, y.channels, 1, activation="hard_sigmoid"))
    y = net.conv(y, filters, 1)
    return net.add(x, y) if stride == 1 and filters == x.channels else y

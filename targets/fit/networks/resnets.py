"""Networks like ResNet-18 and SqueezeNet: plain convolutions, residual sums, concatenations."""

from __future__ import annotations

import onnx

from lpcc.targets.fit.networks.builder import Builder, Tensor


def resnet18(size: int = 64, width: float = 0.5, classes: int = 1000) -> onnx.ModelProto:
    """ResNet-18 (He et al. 2016) with `width` times the channels."""
    net = Builder(f"resnet18_{width}_{size}")
    x = net.conv(net.input(1, 3, size, size), int(64 * width), 7, 2, (3, 3, 3, 3), "relu")
    x = net.pool(x, "max", 3, 2, (1, 1, 1, 1))
    for stage in range(4):
        filters = int(64 * width) << stage
        for block in range(2):
            x = _basic(net, x, filters, 2 if stage and not block else 1)
    return net.model(net.dense(net.flatten(net.global_pool(x)), classes))


def squeezenet(size: int = 96, classes: int = 1000) -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola et al. 2016)."""
    net = Builder(f"squeezenet_{size}")
    x = net.conv(net.input(1, 3, size, size), 64, 3, 2, "valid", "relu")
    for pooled, squeeze, expand in (
        (True, 16, 64),
        (False, 16, 64),
        (True, 32, 128),
        (False, 32, 128),
        (True, 48, 192),
        (False, 48, 192),
        (False, 64, 256),
        (False, 64, 256),
    ):
        if pooled:
            x = net.pool(x, "max", 3, 2)
        y = net.conv(x, squeeze, 1, activation="relu")
        x = net.concat([net.conv(y, expand, 1, activation="relu"), net.conv(y, expand, 3, activation="relu")])
    x = net.global_pool(net.conv(x, classes, 1, activation="relu"))
    return net.model(net.flatten(x))


def _basic(net: Builder, x: Tensor, filters: int, stride: int) -> Tensor:
    y = net.conv(x, filters, 3, stride, (1, 1, 1, 1), "relu")
    y = net.conv(y, filters, 3)
    shortcut = x if stride == 1 and filters == x.channels else net.conv(x, filters, 1, stride)
    return net.add(shortcut, y, "relu")

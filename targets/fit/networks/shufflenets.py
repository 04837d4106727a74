"""Networks like ShuffleNetV2: half of the channels pass each unit, then all are shuffled."""

from __future__ import annotations

import onnx

from lpcc.targets.fit.networks.builder import Builder, Tensor

_STAGES = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024)}


def shufflenet_v2(size: int = 96, width: float = 0.5, classes: int = 1000) -> onnx.ModelProto:
    """ShuffleNetV2 (Ma et al. 2018). Halves are cut by Split."""
    net = Builder(f"shufflenet_v2_{width}_{size}")
    x = net.conv(net.input(1, 3, size, size), 24, 3, 2, (1, 1, 1, 1), "relu")
    x = net.pool(x, "max", 3, 2, (1, 1, 1, 1))
    *stages, last = _STAGES[width]
    for filters, repeats in zip(stages, (4, 8, 4), strict=True):
        x = _down(net, x, filters // 2)
        for _ in range(repeats - 1):
            passed, worked = net.split(x, 2)
            x = _shuffle(net, passed, _branch(net, worked, filters // 2, 1))
    x = net.global_pool(net.conv(x, last, 1, activation="relu"))
    return net.model(net.dense(net.flatten(x), classes))


def _branch(net: Builder, x: Tensor, filters: int, stride: int) -> Tensor:
    y = net.conv(x, filters, 1, activation="relu")
    return net.conv(net.depthwise(y, 3, stride, (1, 1, 1, 1)), filters, 1, activation="relu")


def _down(net: Builder, x: Tensor, filters: int) -> Tensor:
    left = net.conv(net.depthwise(x, 3, 2, (1, 1, 1, 1)), filters, 1, activation="relu")
    return _shuffle(net, left, _branch(net, x, filters, 2))


def _shuffle(net: Builder, left: Tensor, right: Tensor) -> Tensor:
    x = net.concat([left, right])
    batch, channels, height, width = x.shape
    x = net.transpose(net.reshape(x, batch, 2, channels // 2, height, width), 0, 2, 1, 3, 4)
    return net.reshape(x, batch, channels, height, width)

"""Whole networks written in code, to see how well a fit predicts what it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lpcc.target import Int8
from lpcc.targets.fit.host.net import Net
from lpcc.targets.fit.host.probes import Probe


def networks(int8: Int8 | None) -> Iterator[Probe]:
    """Small forms of well-known networks, each in float and, with a scheme, in int8."""
    for word, scheme in (("float32", None), *((("int8", int8),) if int8 else ())):
        for build in _NETWORKS:
            net = Net(scheme, seed=1)
            yield Probe(f"{word} {build.__name__.strip('_')}", net.model(build(net)))


def _classified(net: Net, x: str, classes: int) -> str:
    channels = net.shapes[x][1]
    x = net.op("GlobalAveragePool", x, shape=(1, channels, 1, 1))
    return net.gemm(net.op("Flatten", x, shape=(1, channels)), classes, act=None)


def _squeezed(net: Net, x: str) -> str:
    """Squeeze and excite."""
    _, channels, height, width = net.shapes[x]
    gate = net.op("GlobalAveragePool", x, shape=(1, channels, 1, 1))
    gate = net.conv(net.conv(gate, max(8, channels // 32 * 8), 1), channels, 1, act="HardSigmoid")
    return net.op("Mul", x, gate, shape=(1, channels, height, width))


def _separable(net: Net) -> str:
    """MobileNetV1 at 128 pixels and half the width."""
    x = net.conv(net.input(1, 3, 128, 128), 16, 3, stride=2)
    for cout, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), *[(256, 1)] * 3, (512, 2), (512, 1)):
        x = net.conv(x, net.shapes[x][1], 3, stride=stride, groups=net.shapes[x][1])
        x = net.conv(x, cout, 1)
    return _classified(net, x, 1000)


def _mobile(net: Net) -> str:
    """MobileNetV3 small at 160 pixels: squeeze and excite, h-swish, 5x5 windows."""
    x = net.conv(net.input(1, 3, 160, 160), 16, 3, stride=2, act="HardSwish")
    rows: tuple[tuple[int, int, int, bool, str, int], ...]
    rows = ((3, 16, 16, True, "Relu", 2), (3, 72, 24, False, "Relu", 2), (3, 88, 24, False, "Relu", 1))
    rows += ((5, 96, 40, True, "HardSwish", 2), (5, 240, 40, True, "HardSwish", 1), (5, 120, 48, True, "HardSwish", 1))
    rows += ((5, 288, 96, True, "HardSwish", 2), (5, 576, 96, True, "HardSwish", 1))
    for taps, wide, cout, squeeze, act, stride in rows:
        y = net.conv(x, wide, 1, act=act)
        y = net.conv(y, wide, taps, stride=stride, groups=wide, act=act)
        y = net.conv(_squeezed(net, y) if squeeze else y, cout, 1, act=None)
        x = net.op("Add", x, y) if stride == 1 and net.shapes[x] == net.shapes[y] else y
    return _classified(net, net.conv(x, 576, 1, act="HardSwish"), 1000)


def _residual(net: Net) -> str:
    """ResNet-18 at 64 pixels and half the width."""
    x = net.conv(net.input(1, 3, 64, 64), 32, 7, stride=2)
    for cout, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        y = net.conv(net.conv(x, cout, 3, stride=stride), cout, 3, act=None)
        short = x if stride == 1 else net.conv(x, cout, 1, stride=stride, act=None)
        x = net.op("Relu", net.op("Add", y, short))
    return _classified(net, x, 100)


def _fires(net: Net) -> str:
    """SqueezeNet at 112 pixels."""
    x = net.conv(net.input(1, 3, 112, 112), 64, 3, stride=2)
    for narrow, halve in ((16, True), (16, False), (32, True), (32, False), (48, True), (64, False)):
        _, channels, side, _ = net.shapes[x]
        if halve:
            window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}
            x = net.op("MaxPool", x, shape=(1, channels, side // 2, side // 2), **window)
        y = net.conv(x, narrow, 1)
        parts = [net.conv(y, 4 * narrow, 1), net.conv(y, 4 * narrow, 3)]
        x = net.op("Concat", *parts, shape=(1, 8 * narrow, *net.shapes[y][2:]), axis=1)
    return _classified(net, x, 200)


def _shuffled(net: Net) -> str:
    """ShuffleNetV2 at 128 pixels."""
    x = net.conv(net.input(1, 3, 128, 128), 24, 3, stride=2)
    x = net.op("MaxPool", x, shape=(1, 24, 32, 32), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    for channels, repeats in ((48, 3), (96, 3), (192, 2)):
        half = channels // 2
        left = net.conv(x, net.shapes[x][1], 3, stride=2, groups=net.shapes[x][1], act=None)
        right = net.conv(net.conv(x, half, 1), half, 3, stride=2, groups=half, act=None)
        x = _joined(net, net.conv(left, half, 1), net.conv(right, half, 1))
        for _ in range(repeats):
            left, right = net.split(x, 2)
            right = net.conv(net.conv(right, half, 1), half, 3, groups=half, act=None)
            x = _joined(net, left, net.conv(right, half, 1))
    return _classified(net, net.conv(x, 512, 1), 200)


def _joined(net: Net, left: str, right: str) -> str:
    """Two halves joined, their channels taken in turns."""
    _, half, *sides = net.shapes[left]
    shape, parts = (1, 2 * half, *sides), (1, 2, half, *sides)
    x = net.op("Concat", left, right, shape=shape, axis=1)
    x = net.op("Reshape", x, constants=[np.array(parts, np.int64)], shape=parts)
    x = net.op("Transpose", x, shape=(1, half, 2, *sides), perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", x, constants=[np.array(shape, np.int64)], shape=shape)


def _detector(net: Net) -> str:
    """A small detector: SiLU, crossed stages, a path back up."""
    x = net.conv(net.input(1, 3, 160, 160), 16, 3, stride=2, act="Silu")
    kept = []
    for cout in (32, 64, 128):
        x = net.conv(x, cout, 3, stride=2, act="Silu")
        left, right = net.conv(x, cout // 2, 1, act="Silu"), net.conv(x, cout // 2, 1, act="Silu")
        right = net.op("Add", right, net.conv(net.conv(right, cout // 2, 1, act="Silu"), cout // 2, 3, act="Silu"))
        x = net.conv(net.op("Concat", left, right, shape=net.shapes[x], axis=1), cout, 1, act="Silu")
        kept.append(x)
    _, channels, side, _ = net.shapes[x]
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    where: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = net.op("Resize", x, "", scales, shape=(1, channels, 2 * side, 2 * side), **where)
    x = net.op("Concat", up, kept[1], shape=(1, channels + 64, 2 * side, 2 * side), axis=1)
    return net.conv(net.conv(x, 64, 3, act="Silu"), 24, 1, act="Sigmoid")


def _segmenter(net: Net) -> str:
    """A small U-Net."""
    x, kept = net.input(1, 1, 96, 96), []
    for cout in (16, 32, 64):
        x = net.conv(net.conv(x, cout), cout)
        kept.append(x)
        _, _, side, _ = net.shapes[x]
        x = net.op("MaxPool", x, shape=(1, cout, side // 2, side // 2), kernel_shape=[2, 2], strides=[2, 2])
    x = net.conv(x, 64)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    where: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for other in reversed(kept):
        _, channels, side, _ = net.shapes[x]
        x = net.op("Resize", x, "", scales, shape=(1, channels, 2 * side, 2 * side), **where)
        both = channels + net.shapes[other][1]
        x = net.op("Concat", x, other, shape=(1, both, 2 * side, 2 * side), axis=1)
        x = net.conv(x, net.shapes[other][1])
    return net.conv(x, 1, 1, act="Sigmoid")


_NETWORKS: tuple[Callable[[Net], str], ...] = (
    _separable, _mobile, _residual, _fires, _shuffled, _detector, _segmenter,
)  # fmt: skip

"""Networks of ST's model zoo whose latency and memory ST publishes, written after their training scripts.

`build` knows them by the names of the tables in the zoo's README files. Checked there by the size of the weights.

Left out: MiniResNet v2, whose published latency does not fit its script, and the hybrid networks with binary cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import onnx

from lpcc.targets.fit.networks.builder import Activation, Builder, Tensor
from lpcc.targets.fit.networks.mobilenets import V2_STAGES


def mobilenet_v1(size: int, width: float, classes: int = 5, channels: int = 3) -> onnx.ModelProto:
    """MobileNetV1 (Howard et al. 2017) as Keras has it."""
    net = Builder(f"mobilenet_v1_{width}_{size}")
    x, _ = _mobilenet_v1(net, net.input(1, channels, size, size), width)
    return net.model(_head(net, x, classes))


def mobilenet_v2(size: int, width: float, classes: int = 5) -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al. 2018) as Keras has it."""
    net = Builder(f"mobilenet_v2_{width}_{size}")
    x = net.conv(net.input(1, 3, size, size), _round(32 * width), 3, 2, activation="relu6")
    for expand, filters, repeats, first in V2_STAGES:
        for repeat in range(repeats):
            y = net.conv(x, x.channels * expand, activation="relu6") if expand > 1 else x
            y = net.depthwise(y, 3, first if repeat == 0 else 1, activation="relu6")
            y = net.conv(y, _round(filters * width))
            x = net.add(x, y) if repeat else y
    x = net.conv(x, _round(1280 * max(width, 1.0)), activation="relu6")
    return net.model(_head(net, x, classes))


def fd_mobilenet(size: int, widths: tuple[float, ...], classes: int = 5) -> onnx.ModelProto:
    """FD-MobileNet (Qin et al. 2018): early reduction, no activation after depthwise; a width for each block."""
    net = Builder(f"fd_mobilenet_{size}")
    x = net.conv(net.input(1, 3, size, size), int(32 * widths[0]), 3, 2, activation="relu")
    blocks = ((64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 4, (1024, 1))
    for (filters, stride), width in zip(blocks, widths[1:], strict=True):
        x = net.conv(net.depthwise(x, 3, stride), int(filters * width), activation="relu")
    x = net.flatten(net.conv(net.global_pool(x), classes))
    return net.model(net.activate(x, "softmax"))


def resnet_v1(depth: int, size: int = 32, classes: int = 10) -> onnx.ModelProto:
    """ResNet for small images (He et al. 2016), 6n + 2 layers, with projections in the shortcuts."""
    net = Builder(f"resnet_v1_{depth}")
    x = net.conv(net.input(1, 3, size, size), 16, 3, activation="relu")
    for stack in range(3):
        for block in range((depth - 2) // 6):
            filters, stride = 16 << stack, 2 if stack and not block else 1
            y = net.conv(x, filters, 3, stride, activation="relu")
            y = net.conv(y, filters, 3)
            x = net.add(net.conv(x, filters, 1, stride) if stride == 2 else x, y, "relu")
    x = net.flatten(net.pool(x, "average", 8, 8))
    return net.model(net.dense(x, classes, "softmax"))


def squeezenet_10(size: int, classes: int = 5) -> onnx.ModelProto:
    """SqueezeNet 1.0 (Iandola et al. 2016) with one Fire module less; the batch norms after activations left out."""
    net = Builder(f"squeezenet_10_{size}")
    x = net.conv(net.input(1, 3, size, size), 96, 7, 2, "valid", "relu")
    x = net.pool(x, "max", 3, 2)
    for squeeze, pooled in ((16, False), (16, False), (32, True), (32, False), (48, False), (48, True), (64, False)):
        x = _fire(net, x, squeeze)
        x = net.pool(x, "max", 3, 2) if pooled else x
    return net.model(_squeezenet_head(net, x, classes))


def squeezenet_11(size: int, classes: int = 5) -> onnx.ModelProto:
    """SqueezeNet 1.1: fewer channels and earlier pooling."""
    net = Builder(f"squeezenet_11_{size}")
    x = net.conv(net.input(1, 3, size, size), 64, 3, 2, "valid", "relu")
    for squeeze, pooled in ((16, True), (16, False), (32, True), (32, False), (48, True), (48, 0), (64, 0), (64, 0)):
        x = _fire(net, net.pool(x, "max", 3, 2) if pooled else x, squeeze)
    return net.model(_squeezenet_head(net, x, classes))


def st_mnist(classes: int = 36) -> onnx.ModelProto:
    """ST's small network for 28 x 28 characters."""
    net = Builder("st_mnist")
    x = net.conv(net.input(1, 1, 28, 28), 16, 3, 2, activation="relu")
    x = net.depthwise(x, activation="relu")
    x = net.conv(x, 32, 3, activation="relu")
    x = net.depthwise(x, stride=2, activation="relu")
    x = net.conv(x, 64, activation="relu")
    return net.model(_head(net, x, classes))


def st_efficientnet_lc(size: int, classes: int = 5) -> onnx.ModelProto:
    """ST's EfficientNet: width 0.45, expansion 3, ReLU6 in place of swish, with squeeze and excitation."""
    net = Builder(f"st_efficientnet_lc_{size}")
    x = net.conv(net.input(1, 3, size, size), _round(32 * 0.45), 3, 2, activation="relu6")
    for expand, filters, repeats, kernel, first in (
        (1, 16, 1, 3, 1),
        (3, 24, 2, 3, 2),
        (3, 40, 2, 5, 2),
        (3, 80, 3, 3, 2),
        (3, 112, 3, 5, 1),
        (3, 192, 4, 5, 2),
        (3, 320, 1, 3, 1),
    ):
        for repeat in range(repeats):
            y = net.conv(x, x.channels * expand, activation="relu6") if expand > 1 else x
            y = net.depthwise(y, kernel, 1 if repeat else first, activation="relu6")
            gate = net.conv(net.global_pool(y), max(1, x.channels // 4), activation="relu6")
            y = net.mul(y, net.conv(gate, y.channels, activation="sigmoid"))
            y = net.conv(y, _round(filters * 0.45))
            x = net.add(y, x) if repeat or (first == 1 and y.shape == x.shape) else y
    x = net.conv(x, _round(1280 * 0.45), activation="relu6")
    return net.model(_head(net, x, classes))


def st_yolo_lc(size: int, classes: int = 1, anchors: int = 5) -> onnx.ModelProto:
    """ST's small YOLO: four strided convolutions, four separable ones."""
    net = Builder(f"st_yolo_lc_{size}")
    x = net.input(1, 3, size, size)
    for filters in (16, 32, 64, 128):
        x = net.conv(x, filters, 3, 2, activation="relu")
    for filters in (256, 256, 128, 256):
        if filters == 128:
            x = net.pool(x, "max", 2, 1, "same")
        x = net.conv(net.depthwise(x), filters, activation="relu")
    return net.model(net.conv(x, (5 + classes) * anchors))


def st_ssd_mobilenet_v1(size: int, width: float, classes: int = 1) -> onnx.ModelProto:
    """ST's SSD on MobileNetV1: six maps of 32 channels, joined from small to large by enlargement; 5 anchors each."""
    net = Builder(f"st_ssd_mobilenet_v1_{width}_{size}")
    x, taps = _mobilenet_v1(net, net.input(1, 3, size, size), width)
    maps = [net.conv(taps[5], 32), net.conv(taps[11], 32), net.conv(x, 32)]
    for _ in range(2):
        for stride in (2, 1):
            x = net.conv(net.depthwise(x, 3, stride, activation="relu6"), 256, activation="relu6")
        maps.append(net.conv(x, 32))
    maps.append(net.conv(net.global_pool(x), 32))
    boxes: list[Tensor] = []
    labels: list[Tensor] = []
    larger: Tensor | None = None
    for level in reversed(maps):
        joined = level if larger is None else net.add(level, net.resize(larger, level.shape[2] // larger.shape[2]))
        kernel = 1 if joined.shape[2] == 1 else 3
        for found, values in ((labels, classes + 1), (boxes, 4)):
            flat = net.transpose(net.conv(joined, 5 * values, kernel), 0, 2, 3, 1)
            found.insert(0, net.reshape(flat, 1, flat.shape[1] * flat.shape[2] * 5, values))
        larger = joined
    return net.model(net.activate(net.concat(labels), "softmax"), net.concat(boxes))


def miniresnet(height: int, width: int, stacks: int, classes: int = 10) -> onnx.ModelProto:
    """ST's ResNet for spectrograms: stacks of two blocks of a 1x1 and a 3x3 convolution."""
    net = Builder(f"miniresnet_{stacks}")
    x = net.conv(net.input(1, 1, height, width), 64, 7, 2, (3, 3, 3, 3), "relu")
    x = net.pool(x, "max", 3, 2, (1, 1, 1, 1))
    for stack in range(stacks):
        for stride in (2, 1):
            filters = 64 << stack
            shortcut = net.conv(x, filters, 1, stride) if stride == 2 else x
            y = net.conv(net.conv(x, filters, 1, stride, activation="relu"), filters, 3, activation="relu")
            x = net.add(shortcut, y, "relu")
    return net.model(_head(net, x, classes))


def yamnet(mels: int, frames: int, classes: int = 10) -> onnx.ModelProto:
    """YAMNet (after MobileNetV1) cut after 256 channels."""
    net = Builder("yamnet_256")
    x = net.transpose(net.input(1, 1, mels, frames), 0, 1, 3, 2)
    x = net.conv(x, 32, 3, 2, activation="relu")
    for filters, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        x = net.conv(net.depthwise(x, 3, stride, activation="relu"), filters, activation="relu")
    return net.model(_head(net, x, classes))


def gmp(window: int, axes: int, classes: int = 4) -> onnx.ModelProto:
    """Two convolutions over time and a global maximum, for human activity."""
    net = Builder(f"gmp_{window}")
    x = net.conv(net.input(1, 1, window, axes), 16, (5, 1), padding="valid")
    x = net.flatten(net.global_pool(net.conv(x, 16, (5, 1), padding="valid"), "max"))
    return net.model(net.dense(x, classes, "softmax"))


def ign(window: int, axes: int, classes: int = 4) -> onnx.ModelProto:
    """One convolution over time and two fully connected layers, for human activity (Ignatov 2018)."""
    net = Builder(f"ign_{window}")
    x = net.conv(net.input(1, 1, window, axes), 24, (16, 1), padding="valid", activation="relu")
    x = net.flatten(net.pool(x, "max", (3, 1), (3, 1)))
    return net.model(net.dense(net.dense(x, 12), classes, "softmax"))


def build(model: str, resolution: str) -> onnx.ModelProto | None:
    """The network that ST's tables call `model`, at a resolution like ``224x224x3``; None where it is unknown here."""
    height, width, channels = (int(n) for n in re.findall(r"\d+", resolution))
    if found := re.fullmatch(r"(SSD )?Mobilenet v([12]) ([\d.]+)(?: fft)?( \S+)?", model, re.IGNORECASE):
        ssd, version, alpha, data = found.groups()
        if ssd:
            return st_ssd_mobilenet_v1(height, float(alpha)) if version == "1" else None
        classes = _CLASSES.get((data or "").strip(), 5)
        if version == "2":
            return mobilenet_v2(height, float(alpha), classes)
        return mobilenet_v1(height, float(alpha), classes, channels)
    if found := re.fullmatch(r"ResNet v1 (\d+)", model):
        return resnet_v1(int(found[1]), height)
    if found := re.fullmatch(r"MiniResNet (\d)stacks", model):
        return miniresnet(height, width, int(found[1]))
    if model in _SQUARE:
        return _SQUARE[model](height)
    return _OBLONG[model](height, width) if model in _OBLONG else None


_CLASSES = {"ImageNet": 1000, "food-101": 101, "person": 2}
_ST_WIDTHS = (0.5, 0.75, 0.625, 0.5, 0.375, *[0.25] * 7)
_SQUARE: Mapping[str, Callable[[int], onnx.ModelProto]] = MappingProxyType(
    {
        "FdMobileNet 0.25": partial(fd_mobilenet, widths=(0.25,) * 12),
        "ST FdMobileNet v1": partial(fd_mobilenet, widths=_ST_WIDTHS),
        "SqueezeNet v1.0": squeezenet_10,
        "SqueezeNet v1.1": squeezenet_11,
        "ST EfficientNet LC v1": st_efficientnet_lc,
        "ST Yolo LC v1": st_yolo_lc,
        "ST MNIST Byclass v1 28x28": lambda _: st_mnist(),
    }
)
_OBLONG: Mapping[str, Callable[[int, int], onnx.ModelProto]] = MappingProxyType(
    {"Yamnet 256": yamnet, "GMP wl 24": gmp, "GMP wl 48": gmp, "IGN wl 24": ign, "IGN wl 48": ign}
)


def _mobilenet_v1(net: Builder, x: Tensor, width: float) -> tuple[Tensor, list[Tensor]]:
    """The last map, and what each separable block gives (the first one is that of the stem)."""
    taps = [net.conv(x, int(32 * width), 3, 2, activation="relu6")]
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    for filters, stride in blocks:
        x = net.depthwise(taps[-1], 3, stride, activation="relu6")
        taps.append(net.conv(x, int(filters * width), activation="relu6"))
    return taps[-1], taps


def _fire(net: Builder, x: Tensor, squeeze: int) -> Tensor:
    x = net.conv(x, squeeze, activation="relu")
    return net.concat([net.conv(x, 4 * squeeze, activation="relu"), net.conv(x, 4 * squeeze, 3, activation="relu")])


def _squeezenet_head(net: Builder, x: Tensor, classes: int) -> Tensor:
    return net.activate(net.flatten(net.global_pool(net.conv(x, classes, activation="relu"))), "softmax")


def _head(net: Builder, x: Tensor, classes: int, activation: Activation = "softmax") -> Tensor:
    return net.dense(net.flatten(net.global_pool(x)), classes, activation)


def _round(filters: float) -> int:
    """To a multiple of 8, and not below 90 % of `filters`."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded

"""The four reference networks of MLPerf Tiny (closed division), after the training scripts of MLCommons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx

from lpcc.targets.fit.networks.builder import Builder, Tensor
from lpcc.targets.fit.networks.stm32 import mobilenet_v1


def anomaly_detection() -> onnx.ModelProto:
    """An autoencoder of fully connected layers on 640 features: 128 wide, 8 in the middle."""
    net = Builder("anomaly_detection")
    x = net.input(1, 640)
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = net.dense(x, width, "relu")
    return net.model(net.dense(x, 640))


def image_classification() -> onnx.ModelProto:
    """ResNet-8 on 32 x 32 pixels, 10 classes: three residual blocks of 16, 32 and 64 channels."""
    net = Builder("image_classification")
    x = net.conv(net.input(1, 3, 32, 32), 16, 3, activation="relu")
    for stack in range(3):
        filters, stride = 16 << stack, 2 if stack else 1
        y = net.conv(x, filters, 3, stride, activation="relu")
        y = net.conv(y, filters, 3)
        shortcut = net.conv(x, filters, 1, stride) if stack else x
        x = net.add(shortcut, y, "relu")
    x = net.flatten(net.pool(x, "average", 8, 8))
    return net.model(net.dense(x, 10, "softmax"))


def keyword_spotting() -> onnx.ModelProto:
    """DS-CNN on 49 frames of 10 coefficients, 12 words: a 10 x 4 convolution and four separable ones of 64 channels."""
    net = Builder("keyword_spotting")
    x = net.conv(net.input(1, 1, 49, 10), 64, (10, 4), 2, activation="relu")
    for _ in range(4):
        x = _separable(net, x, 64)
    x = net.flatten(net.pool(x, "average", (25, 5), (25, 5)))
    return net.model(net.dense(x, 12, "softmax"))


def visual_wake_words() -> onnx.ModelProto:
    """MobileNetV1 of width 0.25 on 96 x 96 pixels: is a person there?"""
    return mobilenet_v1(96, 0.25, classes=2)


def _separable(net: Builder, x: Tensor, filters: int) -> Tensor:
    return net.conv(net.depthwise(x, 3, activation="relu"), filters, activation="relu")


NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = MappingProxyType(
    {"ad": anomaly_detection, "ic": image_classification, "kws": keyword_spotting, "vww": visual_wake_words}
)
"""By the abbreviations that the results of MLPerf Tiny use."""

"""The example network: plain and inverted residual blocks, with batch norm after every convolution."""

from __future__ import annotations

from torch import Tensor, nn


def chain(**modules: nn.Module) -> nn.Sequential:
    """A Sequential whose parts have names, which become the node names of the ONNX file."""
    sequence = nn.Sequential()
    for name, module in modules.items():
        sequence.add_module(name, module)
    return sequence


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with "same" padding and no bias, and the batch norm behind it."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return chain(conv=conv, norm=nn.BatchNorm2d(outputs))


class Add(nn.Module):
    """The sum of two tensors; a layer of its own so that it has a name."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two tensors of one shape to their sum."""
        return x + y


class Residual(nn.Module):
    """after(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.add, self.after = body, shortcut, Add(), after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        y: Tensor = self.after(self.add(self.body(x), self.shortcut(x)))
        return y


def basic(inputs: int, outputs: int, stride: int = 1) -> Residual:
    """ResNet's basic block; the shortcut is a 1x1 convolution where the shape changes."""
    body = chain(first=conv_bn(inputs, outputs, 3, stride), relu=nn.ReLU(), second=conv_bn(outputs, outputs, 3))
    same = inputs == outputs and stride == 1
    return Residual(body, nn.Identity() if same else conv_bn(inputs, outputs, 1, stride), nn.ReLU())


def separable(inputs: int, outputs: int, expansion: int, stride: int = 1) -> nn.Module:
    """MobileNetV2's block: 1x1 expansion, depthwise 3x3, linear 1x1; a shortcut where the shape stays."""
    inner = inputs * expansion
    body = chain(
        expand=conv_bn(inputs, inner, 1),
        expand_relu=nn.ReLU(),
        depthwise=conv_bn(inner, inner, 3, stride, groups=inner),
        depthwise_relu=nn.ReLU(),
        project=conv_bn(inner, outputs, 1),
    )
    same = inputs == outputs and stride == 1
    return Residual(body, nn.Identity(), nn.Identity()) if same else body


def network(classes: int = 10) -> nn.Sequential:
    """The whole classifier: (N, 1, 28, 28) float32 to logits (N, classes)."""
    return chain(
        stem=conv_bn(1, 16, 3),
        stem_relu=nn.ReLU(),
        block1=basic(16, 32, stride=2),
        block2=basic(32, 32),
        block3=separable(32, 64, expansion=3, stride=2),
        block4=separable(64, 64, expansion=3),
        block5=basic(64, 64),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(64, classes),
    )

"""Small networks that are measured to learn what kernels cost: shapes as real networks have them, seeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lpcc.target import Int8
from lpcc.targets.fit.host.net import Net

_MOST_MACS = 4e7
"""Of one layer: a millisecond on a fast core."""


@dataclass(frozen=True)
class Probe:
    """A network to measure, and its name, which says what it probes."""

    name: str
    model: onnx.ModelProto

    @property
    def family(self) -> str:
        """What it probes: ``float32 conv``."""
        return self.name.rpartition(" ")[0]


Family = Callable[[Net, np.random.Generator], tuple[str, ...]]


def probes(int8: Int8 | None, seed: int = 0) -> Iterator[Probe]:
    """All probes of float kernels, then those of the integer kernels of a scheme."""
    for word, scheme in (("float32", None), *((("int8", int8),) if int8 else ())):
        for family, count in {**_BOTH, **(_FLOAT if scheme is None else _INTEGER)}.items():
            for index in range(count):
                rng = np.random.default_rng([seed, index, *family.__name__.encode()])
                net = Net(scheme, seed=index)
                outputs = family(net, rng)
                yield Probe(f"{word} {family.__name__.strip('_')} {index}", net.model(*outputs))


def _log(rng: np.random.Generator, low: float, high: float, multiple: int = 1) -> int:
    """A whole number, uniform in its logarithm, a multiple of `multiple`."""
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return max(multiple, round(value / multiple) * multiple)


def _channels(rng: np.random.Generator, low: int = 8, high: int = 512) -> int:
    """Channels: most often multiples of 16 or 8, as real networks have them."""
    return _log(rng, low, high, int(rng.choice([16, 8, 4, 1], p=[0.55, 0.3, 0.1, 0.05])))


def _side(rng: np.random.Generator, low: int = 4, high: int = 112) -> int:
    return _log(rng, low, high)


def _fitting(cin: int, cout: int, taps: int, side: int) -> tuple[int, int, int]:
    """Channels and side, brought down until a layer has not too much work."""
    while cin * cout * taps * side * side > _MOST_MACS:
        if side > 7:
            side = max(7, side * 2 // 3)
        elif cin >= cout:
            cin = max(8, cin // 16 * 8)
        else:
            cout = max(8, cout // 16 * 8)
    return cin, cout, side


def _conv(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Three convolutions in a row."""
    taps = int(rng.choice([3, 3, 3, 3, 5, 7]))
    cin, cout, side = _fitting(_channels(rng, 16, 256), _channels(rng, 8, 256), taps * taps, _side(rng))
    x = net.input(1, cin, side, side)
    x = net.conv(x, cout, taps)
    x = net.conv(x, cin, taps, stride=int(rng.choice([1, 2])), dilation=int(rng.choice([1, 1, 1, 2])))
    return (net.conv(x, cout, (1, 3) if rng.random() < 0.2 else 3, act=str(rng.choice(["Relu", "Clip"]))),)


def _stem(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """The first layer of a network, on an image of few channels."""
    x = net.input(1, int(rng.choice([3, 3, 3, 1])), _side(rng, 28, 320), _side(rng, 28, 320))
    taps, stride = rng.choice([(3, 1), (3, 2), (3, 2), (5, 2), (7, 2)])
    return (net.conv(x, _channels(rng, 8, 64), int(taps), stride=int(stride)),)


def _pointwise(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Four 1x1 convolutions, wide and narrow in turns."""
    narrow, wide, side = _fitting(_channels(rng, 8, 320), _channels(rng, 32, 1280), 1, _side(rng, 1, 112))
    x = net.input(1, narrow, side, side)
    x = net.conv(x, wide, 1, act="Clip")
    x = net.conv(x, _channels(rng, 8, 256), 1, act=None)
    x = net.conv(x, wide, 1, stride=int(rng.choice([1, 1, 2])))
    return (net.conv(x, narrow, 1, act=None),)


def _depthwise(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Depthwise convolutions, two of them after another."""
    channels, side = _channels(rng, 8, 960), _side(rng, 4, 112)
    while channels * side * side > 1_500_000:
        side = max(4, side // 2)
    x = net.input(1, channels, side, side)
    if rng.random() < 0.3:
        return (net.conv(x, channels, 3, stride=2, groups=channels),)
    x = net.conv(x, channels, int(rng.choice([3, 3, 5, 7, 9], p=[0.35, 0.3, 0.25, 0.05, 0.05])), groups=channels)
    dilation = int(rng.choice([1, 1, 1, 2]))
    stride, act = int(rng.choice([1, 2])), str(rng.choice(["Relu", "Clip"]))
    return (net.conv(x, channels, 3, stride=stride, groups=channels, dilation=dilation, act=act),)


def _unblocked(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Convolutions that the runtime cannot lay out for itself: of odd channels, or of weights that it does not know."""
    channels, side = _log(rng, 8, 256), _side(rng, 4, 80)
    groups = channels if rng.random() < 0.6 else 1
    taps = int(rng.choice([3, 3, 5])) if groups > 1 else int(rng.choice([1, 3]))
    while channels // groups * channels * taps * taps * side * side > _MOST_MACS or channels * side * side > 800_000:
        side = max(4, side * 2 // 3)
        channels = channels if side > 4 else max(8, channels // 2)
        groups = min(groups, channels) if groups > 1 else 1
    x, stride = net.input(1, channels, side, side), int(rng.choice([1, 1, 2]))
    out = (1, channels, -(-side // stride), -(-side // stride))
    w = net.input(channels, channels // groups, taps, taps)
    window: dict[str, Any] = {"kernel_shape": [taps] * 2, "pads": [taps // 2] * 4, "strides": [stride] * 2}
    return (net.op("Conv", x, w, shape=out, group=groups, **window),)


def _grouped(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    groups = int(rng.choice([2, 4, 8, 32]))
    each, side = _log(rng, 4, 64, 4), _side(rng, 7, 56)
    while groups * each * each * 9 * side * side > _MOST_MACS:
        each, side = max(4, each // 2), max(7, side * 2 // 3)
    x = net.input(1, groups * each, side, side)
    x = net.conv(x, groups * each, int(rng.choice([1, 3])), groups=groups)
    return (net.conv(x, groups * each, 3, groups=groups),)


def _gemm(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    x = net.input(int(rng.choice([1, 1, 1, 1, 8, 64])), _log(rng, 32, 2048))
    x = net.gemm(x, _log(rng, 10, 1280))
    return (net.gemm(x, _log(rng, 10, 1000), act=None),)


def _project(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Products of tokens with weights."""
    width = _log(rng, 32, 384, 8)
    x = net.project(net.input(1, _log(rng, 4, 256), width), _log(rng, 32, 768, 8))
    return (net.project(x, width),)


def _matmul(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """The two products of an attention."""
    heads, tokens, width = _log(rng, 1, 8), _log(rng, 8, 196), _log(rng, 16, 64, 8)
    scores = net.matmul(net.input(1, heads, tokens, width), net.input(1, heads, width, tokens))
    return (net.matmul(scores, net.input(1, heads, tokens, width)),)


def _image(rng: np.random.Generator, most: int = 800_000) -> tuple[int, int, int, int]:
    channels, side = _channels(rng, 8, 512), _side(rng, 2, 160)
    while channels * side * side > most:
        side = max(2, side // 2)
    return 1, channels, side, side


def _add(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Sums and products of images."""
    shape = _image(rng)
    x, y = net.input(*shape), net.input(*shape)
    z = net.op(str(rng.choice(["Add", "Mul"])), x, y)
    return (net.op(str(rng.choice(["Add", "Mul", "Sub"] if net.int8 is None else ["Add", "Mul"])), z, y),)


def _scale(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Images times one number a channel, as squeeze and excite has it."""
    _, channels, *side = shape = _image(rng)
    x = net.op("Mul", net.input(*shape), net.input(1, channels, 1, 1), shape=(1, channels, *side))
    if net.int8 is not None:
        return (x,)
    return (net.op("Add", x, constants=[net.random(channels, 1, 1)]),)


def _unary(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Cheap functions, alone."""
    x = net.input(*_image(rng))
    limits = [np.array(value, np.float32) for value in (0, 6)]
    x = net.op("Clip", x, constants=limits) if rng.random() < 0.5 else net.op("Relu", x)
    half = np.array(0.5, np.float32)
    x = net.op(str(rng.choice(["Mul", "Add", "Div"])), x, constants=[half])
    return (net.op(str(rng.choice(["LeakyRelu", "HardSigmoid", "Abs"])), x),)


def _hswish(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """An activation behind a convolution that the runtime does not take into it."""
    channels, side = _channels(rng, 8, 256), _side(rng, 7, 80)
    x = net.conv(net.input(1, channels, side, side), channels, 3, groups=channels, act=None)
    if net.int8 is None or rng.random() < 0.5:
        x = net.op("HardSwish", x)
    else:
        gate = net.op("HardSigmoid", x, quantised=False, alpha=1 / 6, beta=0.5)
        x = net.op("Mul", x, gate)
    return (net.conv(x, channels, 1, act=None),)


def _activation(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    x = net.input(*_image(rng, 300_000))
    known = ["Sigmoid", "Tanh", "Exp", "Erf", "Silu", "Sigmoid", "Silu"] if net.int8 is None else ["Sigmoid", "Silu"]
    word = str(rng.choice(known))
    gate = net.op("Sigmoid" if word == "Silu" else word, x)
    return (net.op("Mul", x, gate),) if word == "Silu" else (gate,)


def _pool(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """A window, behind a convolution or alone."""
    _, channels, side, _ = _image(rng, 400_000)
    side = max(4, side)
    x = net.input(1, channels, side, side)
    if net.int8 is not None or rng.random() < 0.6:
        x = net.conv(x, channels, 1)
    size, stride = (int(value) for value in rng.choice([(2, 2), (3, 2), (3, 1)]))
    kind, pad = str(rng.choice(["MaxPool", "AveragePool"])), int(size == 3)
    out = (side + 2 * pad - size) // stride + 1
    window: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    x = net.op(kind, x, shape=(1, channels, out, out), **window)
    return (net.conv(x, channels, 1),) if net.int8 is not None else (x,)


def _average(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """The average of each channel, alone or behind a convolution."""
    shape = _image(rng, 400_000)
    x = net.input(*shape)
    if net.int8 is not None or rng.random() < 0.5:
        x = net.conv(x, shape[1], 1)
    return (net.op("GlobalAveragePool", x, shape=(1, shape[1], 1, 1)),)


def _concat(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Two to four images joined along the channels."""
    shape, count = _image(rng, 300_000), int(rng.integers(2, 5))
    parts = [net.input(*shape) for _ in range(count)]
    between = net.int8 is not None or rng.random() < 0.5
    if between:
        parts = [net.conv(part, shape[1], 3, groups=shape[1]) for part in parts]
    x = net.op("Concat", *parts, shape=(1, count * shape[1], *shape[2:]), axis=1)
    return (net.conv(x, 16, 1) if between else x,)


def _copy(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Parts and borders."""
    _, channels, side, _ = shape = _image(rng)
    shape = (1, channels + channels % 2, side, side)
    x = net.input(*shape)
    word = str(rng.choice(["Split", "Slice", "Pad", "Gather", "every second"]))
    if word == "every second":
        numbers = [np.array(values, np.int64) for values in ([0, 0], [side, side], [2, 3], [2, 2])]
        x = net.conv(x, shape[1], 1)
        return (net.op("Slice", x, constants=numbers, shape=(*shape[:2], -(-side // 2), -(-side // 2))),)
    if word == "Gather":
        some = np.arange(0, shape[1], 2, dtype=np.int64)
        return (net.op("Gather", x, constants=[some], shape=(1, shape[1] // 2, side, side), axis=1),)
    if word == "Split":
        return tuple(net.split(x, 2))
    if word == "Slice":
        half = [np.array([value], np.int64) for value in (0, shape[1] // 2, 1)]
        return (net.op("Slice", x, constants=half, shape=(1, shape[1] // 2, side, side)),)
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    return (net.op("Pad", x, constants=[pads], shape=(*shape[:2], side + 2, side + 2)),)


def _transpose(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Changes of order: channels last, first, shuffled."""
    _, channels, side, _ = shape = _image(rng)
    shape = (1, channels + channels % 2, side, side)
    x = net.input(*shape)
    word = str(rng.choice(["last", "first", "shuffle"]))
    if word == "last":
        return (net.op("Transpose", x, shape=(1, side, side, shape[1]), perm=[0, 2, 3, 1]),)
    if word == "first":
        return (net.op("Transpose", x, shape=(1, side, shape[1], side), perm=[0, 3, 1, 2]),)
    parts = (1, 2, shape[1] // 2, side, side)
    x = net.op("Reshape", x, constants=[np.array(parts, np.int64)], shape=parts)
    x = net.op("Transpose", x, shape=(1, parts[2], 2, side, side), perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, constants=[np.array(shape, np.int64)], shape=shape)
    return (net.op("Relu", x),)


def _resize(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Twice the size, by repeating or by mixing."""
    _, channels, side, _ = shape = _image(rng, 150_000)
    x = net.input(*shape)
    between = rng.random() < 0.5
    if between:
        x = net.conv(x, channels, 1)
    mode = str(rng.choice(["nearest", "linear"])) if net.int8 is None else "nearest"
    where: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.op("Resize", x, "", scales, shape=(1, channels, 2 * side, 2 * side), mode=mode, **where)
    return (net.conv(x, 16, 1) if between else x,)


def _reduce(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    _, channels, side, _ = shape = _image(rng)
    kind = str(rng.choice(["ReduceMean", "ReduceMax"]))
    axes, out = ([2, 3], (1, channels, 1, 1)) if rng.random() < 0.6 else ([1], (1, 1, side, side))
    return (net.op(kind, net.input(*shape), shape=out, axes=axes, keepdims=1),)


def _softmax(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    axis = -1 if rng.random() < 0.7 else 1
    return (net.op("Softmax", net.input(1, _log(rng, 1, 400), _log(rng, 2, 1000)), axis=axis),)


def _norm(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < 0.6:
        width = _log(rng, 16, 768, 8)
        x = net.input(1, _log(rng, 4, 400), width)
        return (net.op("LayerNormalization", x, constants=[net.random(width), net.random(width)], axis=-1),)
    shape = _image(rng, 200_000)
    numbers = [net.random(shape[1]) for _ in range(3)] + [np.abs(net.random(shape[1])) + 1]
    return (net.op("BatchNormalization", net.input(*shape), constants=numbers),)


def _rnn(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    x = net.input(_log(rng, 1, 64), 1, _log(rng, 16, 256, 8))
    return (net.lstm(x, _log(rng, 16, 256, 8)),)


def _convert(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """To integers and back."""
    x = net.input(*_image(rng))
    return (net.op("Clip", x, constants=[np.array(0.5, np.float32)], quantised=False),)


def _tiny(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Many small nodes and views: what a call costs."""
    size = _log(rng, 4, 64)
    x = net.input(1, size)
    for index in range(_log(rng, 2, 40)):
        shape = (size, 1) if index % 2 == 0 else (1, size)
        if rng.random() < 0.5:
            x = net.op("Reshape", x, constants=[np.array(shape, np.int64)], shape=shape, quantised=False)
        else:
            x = net.op("Sub" if index % 3 else "Abs", x, *([x] if index % 3 else []), quantised=False)
    return (x,)


def _early(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """How mobile networks begin: few channels, large images, much memory."""
    side, channels = _side(rng, 96, 320), _log(rng, 8, 32, 8)
    x = net.conv(net.input(1, 3, side, side), channels, 3, stride=2, act="Clip")
    x = net.conv(net.conv(x, channels, 3, groups=channels, act="Clip"), channels, 1, act=None)
    wide = int(rng.integers(3, 7)) * channels
    x = net.conv(x, wide, 1, act="Clip")
    return (net.conv(net.conv(x, wide, 3, stride=2, groups=wide, act="Clip"), 2 * channels, 1, act=None),)


def _late(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """How networks end: small images, many channels, more weights than the nearest caches hold."""
    side, channels = _side(rng, 4, 14), _log(rng, 128, 512, 16)
    x = net.conv(net.input(1, channels, side, side), int(rng.integers(2, 5)) * channels, 1)
    if rng.random() < 0.5:
        x = net.conv(x, channels, int(rng.choice([1, 1, 3])))
    x = net.conv(x, _log(rng, 256, 1280, 16), 1)
    wide = net.shapes[x][1]
    x = net.op("Flatten", net.op("GlobalAveragePool", x, shape=(1, wide, 1, 1)), shape=(1, wide))
    return (net.gemm(x, _log(rng, 10, 1000), act=None),)


def _wide(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """1x1 convolutions on images too large for the nearest caches."""
    narrow, wide = _log(rng, 8, 96, 8), _log(rng, 48, 480, 16)
    side = int((_log(rng, 600_000, 2_500_000) / wide) ** 0.5)
    x = net.conv(net.input(1, narrow, side, side), wide, 1, act="Clip")
    return (net.conv(x, narrow, 1, act=None),)


def _inverted(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Inverted residuals, with squeeze and excite or without, and one of the activations of mobile networks."""
    channels, side, expand = _log(rng, 16, 112, 8), _side(rng, 7, 56), int(rng.choice([3, 4, 6]))
    while channels * expand * side * side > 400_000:
        side = max(7, side // 2)
    act, squeeze, wide = str(rng.choice(["Clip", "HardSwish", "Silu"])), rng.random() < 0.5, channels * expand
    x = net.input(1, channels, side, side)
    for _ in range(2):
        y = net.conv(x, wide, 1, act=act)
        y = net.conv(y, wide, int(rng.choice([3, 5])), groups=wide, act=act)
        if squeeze:
            gate = net.op("GlobalAveragePool", y, shape=(1, wide, 1, 1))
            gate = net.conv(net.conv(gate, max(8, wide // 16 * 4), 1), wide, 1, act="HardSigmoid")
            y = net.op("Mul", y, gate, shape=(1, wide, side, side))
        x = net.op("Add", x, net.conv(y, channels, 1, act=None))
    return (x,)


def _residual(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Residual blocks, one of them halving the size."""
    channels, side = _log(rng, 16, 128, 16), _side(rng, 8, 56)
    while channels * channels * 9 * side * side > _MOST_MACS:
        side = max(8, side // 2)
    x = net.input(1, channels, side, side)
    x = net.op("Relu", net.op("Add", net.conv(net.conv(x, channels), channels, act=None), x))
    wide = 2 * channels
    short = net.conv(x, wide, 1, stride=2, act=None)
    long = net.conv(net.conv(x, wide, stride=2), wide, act=None)
    return (net.op("Relu", net.op("Add", long, short)),)


def _branches(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Fire modules: a narrow layer, two wide ones side by side, joined."""
    narrow, side = _log(rng, 16, 64, 16), _side(rng, 7, 56)
    x = net.input(1, _log(rng, 32, 256, 16), side, side)
    for _ in range(2):
        y = net.conv(x, narrow, 1)
        sides = [net.conv(y, 4 * narrow, 1), net.conv(y, 4 * narrow, 3)]
        x = net.op("Concat", *sides, shape=(1, 8 * narrow, side, side), axis=1)
    return (net.op("MaxPool", x, shape=(1, 8 * narrow, side // 2, side // 2), kernel_shape=[2, 2], strides=[2, 2]),)


def _shuffle(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """Shuffle units: split, one half through three convolutions, joined, channels shuffled."""
    channels, side = _log(rng, 24, 232, 8), _side(rng, 7, 44)
    half, shape = channels // 2, (1, channels, side, side)
    x = net.conv(net.input(*shape), channels, 1)
    for _ in range(2):
        y, z = net.split(x, 2)
        z = net.conv(z, half, 1)
        z = net.conv(net.conv(z, half, 3, groups=half, act=None), half, 1)
        x = net.op("Concat", y, z, shape=shape, axis=1)
        parts = (1, 2, half, side, side)
        x = net.op("Reshape", x, constants=[np.array(parts, np.int64)], shape=parts)
        x = net.op("Transpose", x, shape=(1, half, 2, side, side), perm=[0, 2, 1, 3, 4])
        x = net.op("Reshape", x, constants=[np.array(shape, np.int64)], shape=shape)
    return (x,)


def _network(net: Net, rng: np.random.Generator) -> tuple[str, ...]:
    """A whole network of random widths: what kernels cost where others have used the caches since."""
    side, width = _log(rng, 64, 224, 32), _log(rng, 8, 32, 8)
    x = net.conv(net.input(1, 3, side, side), width, 3, stride=2, act="Clip")
    mobile, act = rng.random() < 0.6, str(rng.choice(["Clip", "Relu", "HardSwish"]))
    for stage in range(4):
        cout = width * 2**stage
        for block in range(int(rng.integers(1, 4))):
            stride = 2 if block == 0 and stage > 0 else 1
            if mobile:
                wide = net.shapes[x][1] * int(rng.choice([3, 4, 6]))
                y = net.conv(x, wide, 1, act=act)
                y = net.conv(y, wide, int(rng.choice([3, 5])), stride=stride, groups=wide, act=act)
                y = net.conv(y, cout, 1, act=None)
            else:
                y = net.conv(net.conv(x, cout, 3, stride=stride), cout, 3)
            x = net.op("Add", x, y) if net.shapes[x] == net.shapes[y] else y
    x = net.conv(x, _log(rng, 256, 1280, 64), 1, act=act)
    wide = net.shapes[x][1]
    x = net.op("Flatten", net.op("GlobalAveragePool", x, shape=(1, wide, 1, 1)), shape=(1, wide))
    return (net.gemm(x, _log(rng, 10, 1000), act=None),)


_BOTH: dict[Family, int] = {
    _conv: 20, _stem: 12, _pointwise: 22, _depthwise: 20, _grouped: 8, _gemm: 10, _project: 6, _matmul: 6, _add: 10,
    _scale: 6, _hswish: 8, _activation: 8, _pool: 12, _average: 8, _concat: 10, _copy: 16, _transpose: 10, _resize: 12,
    _reduce: 4, _softmax: 6, _tiny: 8, _inverted: 12, _residual: 8, _branches: 8, _shuffle: 8,
    _early: 10, _late: 10, _wide: 8, _network: 10,
}  # fmt: skip
_FLOAT: dict[Family, int] = {_unary: 10, _norm: 8, _rnn: 8, _unblocked: 16}
_INTEGER: dict[Family, int] = {_convert: 8}

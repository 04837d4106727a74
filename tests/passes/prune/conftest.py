"""Random convolutional networks with everything that ties channels together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto


class Network:
    """A network under construction. Its choices are drawn by hypothesis; its weights come from a seed."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.opset = draw(st.sampled_from((11, 13, 17, 18, 21)))
        self.is_open = draw(st.booleans())
        """Whether the batch has an open size, and shapes are computed from it."""
        self.rng = np.random.default_rng(draw(st.integers(0, 999)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.live: list[tuple[str, int, int]] = []  # name, channels, height and width

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def const(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(np.asarray(values, dtype=dtype), name)
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def normal(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.const(self.rng.standard_normal(shape) / np.sqrt(fan))

    def positive(self, *shape: int) -> str:
        return self.const(self.rng.uniform(0.5, 1.5, shape))

    def new(self, name: str, channels: int, size: int) -> None:
        self.live.append((name, channels, size))

    def conv(self, x: str, c: int, out: int, kernel: int = 1, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        bias = [self.normal(out)] if self.pick(True, False) else []
        pads = [kernel // 2] * 4
        return self.add("Conv", x, self.normal(out, c // groups, kernel, kernel), *bias, pads=pads, **attributes)

    def nonlinear(self, x: str, c: int) -> str:
        match self.pick("Relu", "Clip", "Sigmoid", "PRelu", "LeakyRelu", "hswish", "bn", "affine", "in", "none"):
            case "Clip":
                return self.add("Clip", x, self.const(0.0), self.const(6.0))
            case "PRelu":
                return self.add("PRelu", x, self.normal(*self.pick((c, 1, 1), (1, 1, 1))))
            case "hswish":
                gate = self.add("Clip", self.add("Add", x, self.const([[[3.0]]])), self.const(0.0), self.const(6.0))
                return self.add("Mul", x, self.add("Div", gate, self.const(6.0)))
            case "bn":
                return self.add("BatchNormalization", x, *[self.normal(c) for _ in range(3)], self.positive(c))
            case "in":
                return self.add("InstanceNormalization", x, self.normal(c), self.normal(c))
            case "affine":
                scaled = self.add("Mul", x, self.normal(c, 1, 1))
                return self.add(self.pick("Add", "Sub"), scaled, self.normal(1, c, 1, 1))
            case "none":
                return x
            case op:
                return self.add(op, x)

    def split(self, x: str, *sizes: int) -> list[str]:
        if self.opset < 13:
            return self.add("Split", x, outputs=len(sizes), axis=1, split=list(sizes))
        return self.add("Split", x, self.ints(*sizes), outputs=len(sizes), axis=1)

    def reduce(self, op: str, x: str, axes: list[int], keepdims: int = 1) -> str:
        if self.opset < (13 if op == "ReduceSum" else 18):
            return self.add(op, x, axes=axes, keepdims=keepdims)
        return self.add(op, x, self.ints(*axes), keepdims=keepdims)

    def reshape(self, x: str, *sizes: int) -> str:
        """Reshape of all but the batch, which comes from a constant or from the shape of the tensor."""
        match self.pick("zero", "minus", "shape"):
            case "zero":
                target = self.ints(0, *sizes)
            case "minus":
                target = self.ints(-1, *sizes)
            case _:
                batch = self.add("Slice", self.add("Shape", x), self.ints(0), self.ints(1))
                target = self.add("Concat", batch, self.ints(*sizes), axis=0)
        return self.add("Reshape", x, target)

    def like(self, x: str, c: int, size: int) -> str:
        """Another tensor of that shape."""
        y = self.conv(x, c, c, self.pick(1, 3))
        return self.nonlinear(y, c)

    # Blocks: each takes a live tensor and makes new ones.

    def plain(self, x: str, c: int, size: int) -> None:
        out = self.pick(4, 6, 8, 12)
        y = self.nonlinear(self.conv(x, c, out, self.pick(1, 3)), out)
        self.new(y, out, size)

    def strided(self, x: str, c: int, size: int) -> None:
        if size % 2 == 0 and size > 2:
            self.new(self.conv(x, c, 8, 3, strides=[2, 2]), 8, size // 2)

    def grouped(self, x: str, c: int, size: int) -> None:
        groups = self.pick(*[g for g in (2, 3, 4) if c % g == 0] or [1])
        out = groups * self.pick(1, 2, 4)
        self.new(self.nonlinear(self.conv(x, c, out, 3, group=groups), out), out, size)

    def depthwise(self, x: str, c: int, size: int) -> None:
        out = c * self.pick(1, 1, 2)
        self.new(self.nonlinear(self.conv(x, c, out, 3, group=c), out), out, size)

    def transposed(self, x: str, c: int, size: int) -> None:
        groups = self.pick(*[g for g in (1, 2, c) if c % g == 0])
        each = self.pick(1, 2, 4)
        w = self.normal(c, each, 2, 2)
        bias = [self.normal(groups * each)] if self.pick(True, False) else []
        if size <= 4:
            self.new(self.add("ConvTranspose", x, w, *bias, group=groups, strides=[2, 2]), groups * each, size * 2)

    def residual(self, x: str, c: int, size: int) -> None:
        inner = self.pick(4, 6)
        y = self.nonlinear(self.conv(x, c, inner, 3), inner)
        y = self.conv(y, inner, c, 1)
        self.new(self.add(self.pick("Add", "Mul", "Max"), *self.pick((x, y), (y, x))), c, size)

    def option_a(self, x: str, c: int, size: int) -> None:
        """Every second place, zeros around the channels."""
        if size % 2 or size <= 2:
            return
        before, after = self.pick((2, 2), (0, 4), (3, 1))
        out = c + before + after
        short = self.add("Slice", x, self.ints(0, 0), self.ints(99, 99), self.ints(2, 3), self.ints(2, 2))
        short = self.add("Pad", short, self.ints(0, before, 0, 0, 0, after, 0, 0))
        y = self.nonlinear(self.conv(x, c, out, 3, strides=[2, 2]), out)
        self.new(self.add("Add", y, short), out, size // 2)

    def concat(self, x: str, c: int, size: int) -> None:
        others = [(name, more) for name, more, other in self.live if other == size]
        name, more = self.pick(*others)
        parts = [(x, c), (name, more), (self.conv(x, c, 4), 4)][: self.pick(2, 3)]
        if sum(count for _, count in parts) <= 40:
            self.new(
                self.add("Concat", *[part for part, _ in parts], axis=self.pick(1, -3)), sum(n for _, n in parts), size
            )

    def halves(self, x: str, c: int, size: int) -> None:
        first = self.pick(1, c // 2)
        a, b = self.split(x, first, c - first)
        if self.pick(True, False):
            b = self.like(b, c - first, size)
            self.new(self.add("Concat", *self.pick((a, b), (b, a)), axis=1), c, size)
        else:
            self.new(self.nonlinear(a, first), first, size)
            self.new(b, c - first, size)

    def shuffle(self, x: str, c: int, size: int) -> None:
        groups = self.pick(*[g for g in (2, 3, 4) if c % g == 0] or [1])
        y = self.reshape(x, groups, c // groups, size, size)
        y = self.add("Transpose", y, perm=[0, 2, 1, 3, 4])
        self.new(self.reshape(y, c, size, size), c, size)

    def picked(self, x: str, c: int, size: int) -> None:
        places = self.draw(st.lists(st.integers(-c, c - 1), min_size=2, max_size=c + 2))
        self.new(self.add("Gather", x, self.ints(*places), axis=1), len(places), size)

    def cut(self, x: str, c: int, size: int) -> None:
        start, end, step = self.pick((0, c - 1, 1), (1, 99, 1), (1, 99, 2), (-1, -99, -1), (-1, 0, -2), (0, -1, 1))
        count = len(range(c)[start:end:step])
        steps = [self.ints(step)] if step != 1 or self.pick(True, False) else []
        y = self.add("Slice", x, self.ints(start), self.ints(end), self.ints(1), *steps)
        if count > 1:
            self.new(y, count, size)

    def padded(self, x: str, c: int, size: int) -> None:
        value = [self.const(0.5)] if self.pick(True, False) else []
        self.new(self.add("Pad", x, self.ints(0, 1, 0, 0, 0, 2, 0, 0), *value), c + 3, size)

    def excite(self, x: str, c: int, size: int) -> None:
        """Squeeze and excitation, by convolutions or by matrices."""
        inner = self.pick(2, 4)
        pooled = self.add("GlobalAveragePool", x) if self.pick(True, False) else self.reduce("ReduceMean", x, [2, 3])
        if self.pick(True, False):
            y = self.add("Relu", self.conv(pooled, c, inner))
            gate = self.conv(y, inner, c)
        else:
            y = self.add("Flatten", pooled)
            y = self.add("Relu", self.add("Gemm", y, self.normal(inner, c), self.normal(inner), transB=1))
            y = self.add("MatMul", y, self.normal(inner, c))
            gate = self.reshape(y, c, 1, 1)
        self.new(self.add("Mul", *self.pick((x, self.add("Sigmoid", gate)), (self.add("Tanh", gate), x))), c, size)

    def spatial(self, x: str, c: int, size: int) -> None:
        gate = self.add("Sigmoid", self.conv(x, c, 1, 3))
        self.new(self.add("Mul", x, gate), c, size)

    def pooled(self, x: str, c: int, size: int) -> None:
        if size % 2 == 0 and size > 2:
            op = self.pick("MaxPool", "AveragePool")
            self.new(self.add(op, x, kernel_shape=[2, 2], strides=[2, 2]), c, size // 2)

    def resized(self, x: str, c: int, size: int) -> None:
        if size > 4:
            return
        none = self.const([]) if self.opset < 13 else ""
        if self.pick(True, False):
            y = self.add("Resize", x, none, self.const([1, 1, 2, 2]))
        else:
            some = self.add("Slice", self.add("Shape", x), self.ints(0), self.ints(2))
            y = self.add("Resize", x, none, none, self.add("Concat", some, self.ints(size * 2, size * 2), axis=0))
        self.new(y, c, size * 2)

    def space(self, x: str, c: int, size: int) -> None:
        if c % 4 == 0 and c > 4 and size <= 4:
            self.new(self.add("DepthToSpace", x, blocksize=2, mode=self.pick("DCR", "CRD")), c // 4, size * 2)
        elif size % 2 == 0 and c <= 6 and size > 2:
            self.new(self.add("SpaceToDepth", x, blocksize=2), c * 4, size // 2)

    def last(self, x: str, c: int, size: int) -> None:
        """Channels last, and a matrix."""
        y = self.add("MatMul", self.add("Transpose", x, perm=[0, 2, 3, 1]), self.normal(c, 6))
        y = self.add("Add", y, self.normal(6))
        self.new(self.add("Transpose", y, perm=[0, 3, 1, 2]), 6, size)

    def attention(self, x: str, c: int, size: int) -> None:
        q, k = (self.reshape(self.conv(x, c, 4), 4, size * size) for _ in range(2))
        v = self.reshape(self.conv(x, c, 6), 6, size * size)
        scores = self.add("MatMul", self.add("Transpose", q, perm=[0, 2, 1]), k)
        mixed = self.add("MatMul", v, self.add("Softmax", scores, axis=-1))
        self.new(self.reshape(mixed, 6, size, size), 6, size)

    def shared(self, x: str, c: int, size: int) -> None:
        """One weight, two layers."""
        w = self.normal(c, c, 1, 1)
        self.new(self.add("Conv", self.add("Relu", self.add("Conv", x, w)), w), c, size)

    def quantised(self, x: str, c: int, size: int) -> None:
        """Activations and weights through integers, a scale for each channel of the weights."""
        if self.opset < 13:
            return
        scale, zero = self.const(0.05), self.const(100, np.uint8)
        y = self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)
        w = self.const(self.rng.integers(-50, 50, (8, c, 1, 1)), np.int8)
        w = self.add(
            "DequantizeLinear", w, self.const(self.rng.uniform(0.01, 0.02, 8)), self.const([0] * 8, np.int8), axis=0
        )
        self.new(self.add("Conv", y, w), 8, size)

    def tiled(self, x: str, c: int, size: int) -> None:
        if c <= 12:
            self.new(self.add("Tile", x, self.ints(1, 2, 1, 1)), 2 * c, size)

    def shifted(self, x: str, c: int, size: int) -> None:
        """A tensor that Expand makes as large as another."""
        line = self.add("Expand", self.normal(1, 1, 1, 1), self.add("Shape", x))
        self.new(self.add("Add", x, line), c, size)

    def normalised(self, x: str, c: int, size: int) -> None:
        self.new(self.add("Softmax", x, axis=1) if self.opset >= 13 else self.add("LRN", x, size=3), c, size)

    def head(self, x: str, c: int, size: int) -> tuple[str, int]:
        """An output and its rank."""
        match self.pick("flatten", "reshape", "global", "map", "sum"):
            case "flatten":
                y = self.add("Gemm", self.add("Flatten", x), self.normal(c * size * size, 8), self.normal(8))
                return self.add("Gemm", self.add("Relu", y), self.normal(3, 8), transB=1), 2
            case "reshape":
                return self.add("MatMul", self.reshape(x, c * size * size), self.normal(c * size * size, 3)), 2
            case "global":
                y = self.reduce("ReduceMean", x, [2, 3], 0)
                return self.add("Gemm", y, self.normal(3, c), self.normal(3), transB=1), 2
            case "sum":
                return self.reduce("ReduceSum", x, [1]), 4
            case _:
                return self.conv(x, c, 3), 4

    def model(self) -> onnx.ModelProto:
        """Draw the network: a stem, blocks, heads on what nobody reads yet."""
        batch = "N" if self.is_open else 2
        self.new(self.nonlinear(self.conv("x", 3, 8, 3), 8), 8, 4)
        blocks = (
            self.plain, self.plain, self.strided, self.grouped, self.depthwise, self.transposed, self.residual,
            self.residual, self.option_a, self.concat, self.halves, self.shuffle, self.picked, self.cut, self.padded,
            self.excite, self.spatial, self.pooled, self.resized, self.space, self.last, self.attention, self.shared,
            self.quantised, self.tiled, self.shifted, self.normalised,
        )  # fmt: skip
        for _ in range(self.draw(st.integers(1, 5))):
            x, c, size = self.live[-1] if self.pick(True, True, False) else self.pick(*self.live)
            if 2 <= c <= 32:
                self.pick(*blocks)(x, c, size)
        read = {name for node in self.nodes for name in node.input}
        ends = [self.head(*end) for end in self.live if end[0] not in read]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in ends],
            list(self.weights.values()),
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.checker.check_model(made, full_check=True)
        return made


@pytest.fixture(scope="session")
def random_network() -> Callable[[Callable[[Any], Any]], onnx.ModelProto]:
    """Function that draws a network by hypothesis."""
    return lambda draw: Network(draw).model()


def _network(body: str, opset: int = 17, /, **weights: Any) -> gs.Graph:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {body}')
    for name, values in weights.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    graph = from_proto(model)
    annotate(graph)
    return graph


@pytest.fixture(scope="session")
def network() -> Callable[..., gs.Graph]:
    """Graph with types, of a body in ONNX's text format, an opset, and initialisers by name."""
    return _network

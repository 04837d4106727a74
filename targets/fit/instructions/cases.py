"""A seeded design of one-kernel networks: what is counted to fit the formulas of a runtime's kernels.

A case holds two models of the same kernel. `described` is plain ONNX (with Q/DQ pairs for integers), from which the
kernel analysis takes kind and shapes; `executed` is what the emulator runs: the same model for floats, for integers
the runtime's own operator, as it stands in an optimised network, without the changes of layout around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from onnx import TensorProto, helper, numpy_helper

MOST_MACS = 12_000_000
"""Cases stay below this, so that one takes well under a second to count."""

_TYPES = {"float32": TensorProto.FLOAT, "u8": TensorProto.UINT8, "s8": TensorProto.INT8}
NUMPY_TYPES: Mapping[str, type[np.generic]] = {"float32": np.float32, "u8": np.uint8, "s8": np.int8}


@dataclass(frozen=True)
class Case:
    """A kernel to count: `kind` is the kernel that `described` must contain once; `last`: executed channels last."""

    name: str
    kind: str
    described: onnx.ModelProto
    executed: onnx.ModelProto
    last: bool = False


@dataclass
class Draft:
    """Parts of a model under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    opset: int = 17

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declares a graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, _TYPES[dtype], list(shape)))
        return name

    def weight(self, name: str, values: np.ndarray | np.generic) -> str:
        """Declares an initialiser."""
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node with one output, which bears its name."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, domain=domain, **attributes))
        return output

    def model(self, outputs: Sequence[str], dtype: str = "float32") -> onnx.ModelProto:
        """The model; shapes of outputs are left to inference."""
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        for result in results:
            result.type.tensor_type.elem_type = _TYPES[dtype]
        graph = helper.make_graph(self.nodes, "case", self.inputs, results, self.weights)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=9)


def log_uniform(rng: Generator, low: int, high: int, multiple: int = 1) -> int:
    """An integer between the bounds, uniform in its logarithm, rounded to a multiple."""
    value = float(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    return min(high, max(low, round(value / multiple) * multiple))


def channels(rng: Generator, low: int, high: int) -> int:
    """A number of channels: mostly multiples of 8, as in networks, some odd ones."""
    return log_uniform(rng, low, high, int(rng.choice([1, 2, 4, 8, 8, 8, 8])))


def floats(rng: Generator, *shape: int) -> np.ndarray:
    """Weights of a float kernel."""
    return (rng.standard_normal(shape) * 0.1).astype(np.float32)


@dataclass(frozen=True)
class Convolution:
    """Shape of a convolution over a plane of `ih` x `iw`."""

    cin: int
    cout: int
    groups: int
    kernel: tuple[int, int]
    stride: int
    dilation: int
    ih: int
    iw: int
    batch: int = 1

    @property
    def pads(self) -> list[int]:
        """Padding that keeps the plane's size at stride 1."""
        return [self.dilation * (k // 2) for k in self.kernel] * 2

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the result."""
        return tuple(  # type: ignore[return-value]
            (size + 2 * pad - self.dilation * (k - 1) - 1) // self.stride + 1
            for size, pad, k in zip((self.ih, self.iw), self.pads, self.kernel, strict=False)
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        oh, ow = self.output
        return self.batch * oh * ow * self.cout * self.cin // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the ONNX node."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": [self.stride] * 2,
            "dilations": [self.dilation] * 2,
            "pads": self.pads,
            "group": self.groups,
        }


_WINDOWS = ((3, 3), (3, 3), (3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (1, 7), (2, 2))


POOLS = ((2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (3, 1, 1), (5, 1, 2), (2, 1, 0), (4, 4, 0), (7, 7, 0))
"""Window, stride and padding of poolings."""


def convolutions(rng: Generator, kind: str, count: int) -> Iterator[Convolution]:
    """Random convolutions of one kind: conv, pointwise, depthwise or grouped."""
    made = 0
    while made < count:
        size = log_uniform(rng, 1, 64)
        ih, iw = (size, size) if rng.random() < 0.7 else (size, log_uniform(rng, max(1, size // 4), min(96, 4 * size)))
        stride = int(rng.choice([1, 1, 2]))
        dilation = int(rng.choice([1, 1, 1, 1, 2]))
        kernel = _WINDOWS[rng.integers(len(_WINDOWS))]
        cin, cout, groups = channels(rng, 3, 256), channels(rng, 4, 256), 1
        if kind == "pointwise":
            kernel, dilation, stride = (1, 1), 1, int(rng.choice([1, 1, 1, 1, 2]))
            cin, cout = channels(rng, 4, 768), channels(rng, 4, 768)
        elif kind == "depthwise":
            groups = cin = cout = channels(rng, 8, 512)
            if rng.random() < 0.08:
                cout *= 2
            kernel = [(3, 3), (3, 3), (5, 5), (7, 7)][rng.integers(4)]
        elif kind == "grouped":
            groups = int(rng.choice([2, 3, 4, 8, 16]))
            cin, cout = groups * log_uniform(rng, 2, 32), groups * log_uniform(rng, 2, 32)
            kernel = [(3, 3), (1, 1), (5, 5)][rng.integers(3)]
        batch = 1 if rng.random() < 0.93 else 2
        found = Convolution(cin, cout, groups, kernel, stride, dilation, ih, iw, batch)
        if min(found.output) < 1 or dilation * (max(kernel) // 2) > min(ih, iw):
            continue
        if found.macs > MOST_MACS or cin * cout // groups * kernel[0] * kernel[1] > 1_500_000:
            continue
        made += 1
        yield found


def image(rng: Generator, most: int = 200_000) -> tuple[int, ...]:
    """Shape of an activation: one image, at most that many elements."""
    while True:
        size, depth = log_uniform(rng, 1, 96), channels(rng, 4, 512)
        if size * size * depth <= most:
            return 1, depth, size, size


def seeded(family: str) -> Generator:
    """A generator of its own for each family of cases: adding to one leaves the others as they are."""
    return np.random.default_rng(list(family.encode()))

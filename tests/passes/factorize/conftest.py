"""Random layers of all kinds, and what becomes of them in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.graph import from_proto, to_proto
from lpcc.passes.factorize import emit
from lpcc.passes.factorize.factors import Factors
from lpcc.passes.factorize.form import Form
from lpcc.runtime import Session


def _layer(op: str, weights: Any, shape: Any, bias: Any = None, opset: int = 17, /, **attrs: Any) -> onnx.ModelProto:
    """Model of one layer `layer` that reads `x` of `shape` and writes `y`."""
    weights = np.asarray(weights)
    weights = weights.astype(np.float32) if weights.dtype == np.float64 else weights
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    made = [numpy_helper.from_array(weights, "w")]
    if bias is not None:
        made.append(numpy_helper.from_array(np.asarray(bias).astype(weights.dtype), "b"))
    node = helper.make_node(op, ["x", *[tensor.name for tensor in made]], ["y"], name="layer", **attrs)
    rank = max(len(shape), 1)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", kind, [None] * rank)],
        made,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class Draw:
    """A random layer, as hypothesis draws it."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def each(self, count: int, *choices: Any) -> list[Any]:
        return [self.pick(*choices) for _ in range(count)]

    def model(self) -> onnx.ModelProto:
        rng = np.random.default_rng(self.draw(st.integers(0, 999)))
        op = self.pick("Conv", "Conv", "Conv", "ConvTranspose", "ConvTranspose", "Gemm", "MatMul")
        opset = self.pick(7, 9, 11, 13, 17, 21)
        if op == "MatMul":
            inputs, outputs = self.each(2, 3, 4, 5, 9)
            lead = self.each(self.pick(0, 1, 2, 3), 1, 2, 3)
            return _layer(op, rng.standard_normal((inputs, outputs)), [*lead, inputs], None, opset)
        if op == "Gemm":
            inputs, outputs = self.each(2, 3, 4, 5, 9)
            transposed = self.pick(0, 1)
            weights = rng.standard_normal((outputs, inputs) if transposed else (inputs, outputs))
            bias = rng.standard_normal(self.pick((outputs,), (1, outputs), (2, 1), (2, outputs)))
            if opset >= 11 and self.pick(True, False):
                bias = None
            attrs = {"alpha": self.pick(1.0, 0.5), "beta": self.pick(1.0, 2.0), "transB": transposed}
            return _layer(op, weights, (2, inputs), bias, opset, **attrs)
        rank = self.pick(1, 2, 2, 2, 3)
        groups = self.pick(1, 1, 2, 3)
        inputs, outputs = self.each(2, 1, 2, 3, 4, 5)
        kernel = self.each(rank, 1, 2, 3, 4)
        shape = (inputs, outputs) if op == "ConvTranspose" else (outputs, inputs)
        weights = rng.standard_normal((groups * shape[0], shape[1], *kernel))
        bias = rng.standard_normal(groups * outputs) if self.pick(True, False) else None
        attrs: dict[str, Any] = {"group": groups, "strides": self.each(rank, 1, 1, 2, 3)}
        attrs["dilations"] = self.each(rank, 1, 1, 2)
        padding = self.pick("none", "pads", "pads", "VALID", "SAME_UPPER", "SAME_LOWER")
        if op == "ConvTranspose" and padding.startswith("SAME"):
            padding = "pads"
        if padding == "pads":
            attrs["pads"] = [
                self.draw(st.integers(0, (size - 1) * d + 1)) for size, d in self._reach(kernel, attrs) * 2
            ]
        elif padding != "none":
            attrs["auto_pad"] = padding
        if padding.startswith("SAME"):
            attrs["dilations"] = [1] * rank  # onnxruntime takes no others with it
        if op == "ConvTranspose" and padding != "VALID" and self.pick(True, False):
            attrs["output_padding"] = [self.draw(st.integers(0, stride - 1)) for stride in attrs["strides"]]
        sizes = [
            (size - 1) * d + 1 + self.draw(st.integers(3, 6) if padding == "pads" else st.integers(0, 3))
            for size, d in self._reach(kernel, attrs)
        ]
        return _layer(op, weights, (2, groups * inputs, *sizes), bias, opset, **attrs)

    @staticmethod
    def _reach(kernel: list[int], attrs: dict[str, Any]) -> list[tuple[int, int]]:
        return list(zip(kernel, attrs["dilations"], strict=True))


def _run(model: onnx.ModelProto) -> np.ndarray:
    """What a model makes of random numbers that depend on the shape of its input alone."""
    [spec] = model.graph.input
    kind = spec.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = [dim.dim_value for dim in kind.shape.dim]
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return Session(model, optimise=False).run({spec.name: values})[model.graph.output[0].name]


def _written(
    model: onnx.ModelProto, made: Callable[[Form], Factors], norm: emit.Norm | None = None
) -> tuple[gs.Graph, list[gs.Node]]:
    """Graph of a one-layer model whose layer is replaced by its factors, and the new nodes."""
    graph = from_proto(model)
    annotate(graph)
    [node] = graph.nodes
    form = Form.of(node)
    with edit.Edit(graph) as e:
        nodes = emit.write(e, node, form, made(form), norm)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    return graph, nodes


@pytest.fixture(scope="session")
def layer() -> Callable[..., onnx.ModelProto]:
    """Function that makes a model of one layer: operator, weights, shape of the input, bias, opset, attributes."""
    return _layer


@pytest.fixture(scope="session")
def random_layer() -> Callable[[Callable[[Any], Any]], onnx.ModelProto]:
    """Function that draws a model of one layer by hypothesis."""
    return lambda draw: Draw(draw).model()


@pytest.fixture(scope="session")
def run_layer() -> Callable[[onnx.ModelProto], np.ndarray]:
    """Function that runs a model of one input and one output on random numbers."""
    return _run


@pytest.fixture(scope="session")
def written() -> Callable[..., tuple[gs.Graph, list[gs.Node]]]:
    """Function that replaces the layer of a one-layer model by factors that another function makes of its form."""
    return _written


@pytest.fixture(scope="session")
def rows() -> Callable[..., np.ndarray]:
    """Function that makes correlated rows (groups, count, depth) from a seed."""

    def make(groups: int, depth: int, count: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        mixed = rng.standard_normal((groups, depth, depth)) * np.geomspace(1, 0.05, depth)[:, None]
        return rng.standard_normal((groups, count, depth)) @ mixed

    return make

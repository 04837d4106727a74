"""Cases of integer kernels: signed and unsigned activations, signed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator

from lpcc.targets.fit.instructions.cases import (
    MOST_MACS,
    NUMPY_TYPES,
    POOLS,
    Case,
    Convolution,
    Draft,
    channels,
    convolutions,
    image,
    log_uniform,
    seeded,
)

_MS = "com.microsoft"


def cases() -> Iterator[Case]:
    """All cases of integer kernels, in fixed order."""
    for scheme in ("s8", "u8"):
        for kind, count in (("conv", 180), ("pointwise", 160), ("depthwise", 150), ("grouped", 50)):
            rng = seeded(f"{scheme} {kind}")
            for number, shape in enumerate(convolutions(rng, kind, count)):
                yield _conv(rng, scheme, f"{kind}-{number}", kind, shape)
        yield from _products(scheme)
        yield from _pools(scheme)
        yield from _elementwise(scheme)
        yield from _moves(scheme)


class _Pair:
    """The same kernel twice: with Q/DQ around a float operator, and as the runtime's integer operator."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.plain, self.inner = Draft(), Draft()
        for draft in (self.plain, self.inner):
            draft.weight("scale", np.float32(0.05))
            draft.weight("zero", np.array(3, NUMPY_TYPES[scheme]))

    def input(self, name: str, shape: Sequence[int], *, last: bool = False) -> None:
        """An integer activation; `last`: the runtime's operator has its channels last."""
        self.plain.input(name, shape, self.scheme)
        self.plain.node("DequantizeLinear", [name, "scale", "zero"], f"{name}_f")
        self.inner.input(name, (shape[0], *shape[2:], shape[1]) if last else shape, self.scheme)

    def result(self, name: str = "y") -> None:
        """Quantises the result of the float operator."""
        self.plain.node("QuantizeLinear", [f"{name}_f", "scale", "zero"], name)

    def case(self, name: str, kind: str) -> Case:
        """Both models."""
        plain, inner = self.plain.model(["y"], self.scheme), self.inner.model(["y"], self.scheme)
        return Case(f"{self.scheme}-{name}", kind, plain, inner)


def _conv(rng: Generator, scheme: str, name: str, kind: str, c: Convolution) -> Case:
    pair = _Pair(scheme)
    pair.input("x", (c.batch, c.cin, c.ih, c.iw), last=True)
    weights = rng.integers(-100, 101, (c.cout, c.cin // c.groups, *c.kernel)).astype(np.int8)
    scales = np.full(c.cout, 0.01, np.float32)
    bias = rng.integers(-1000, 1000, c.cout).astype(np.int32)
    for draft in (pair.plain, pair.inner):
        draft.weight("w", weights)
        draft.weight("w_scale", scales)
        draft.weight("w_zero", np.zeros(c.cout, np.int8))
        draft.weight("b", bias)
    pair.plain.weight("b_scale", scales * np.float32(0.05))
    pair.plain.weight("b_zero", np.zeros(c.cout, np.int32))
    pair.plain.node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_f", axis=0)
    pair.plain.node("DequantizeLinear", ["b", "b_scale", "b_zero"], "b_f", axis=0)
    pair.plain.node("Conv", ["x_f", "w_f", "b_f"], "y_f", **c.attributes)
    pair.result()
    names = ["x", "scale", "zero", "w", "w_scale", "w_zero", "scale", "zero", "b"]
    pair.inner.node("QLinearConv", names, "y", domain=_MS, channels_last=1, **c.attributes)
    return pair.case(name, kind)


def _products(scheme: str) -> Iterator[Case]:
    rng = seeded(f"{scheme} products")
    for number in range(80):
        rows = 1 if rng.random() < 0.6 else log_uniform(rng, 2, 64)
        depth, columns = log_uniform(rng, 8, 2048), log_uniform(rng, 2, 1200)
        if rows * depth * columns > MOST_MACS or depth * columns > 1_500_000:
            continue
        pair = _Pair(scheme)
        pair.input("x", (rows, depth))
        product = number % 4 == 3
        weights = rng.integers(-100, 101, (depth, columns) if product else (columns, depth)).astype(np.int8)
        scales = np.float32(0.01) if product else np.full(columns, 0.01, np.float32)
        for draft in (pair.plain, pair.inner):
            draft.weight("w", weights)
            draft.weight("w_scale", scales)
            draft.weight("w_zero", np.zeros(scales.shape, np.int8))
        if product:
            pair.plain.node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_f")
            pair.plain.node("MatMul", ["x_f", "w_f"], "y_f")
            names = ["x", "scale", "zero", "w", "w_scale", "w_zero", "scale", "zero"]
            pair.inner.node("QLinearMatMul", names, "y")
        else:
            bias = rng.integers(-1000, 1000, columns).astype(np.int32)
            for draft in (pair.plain, pair.inner):
                draft.weight("b", bias)
            pair.plain.weight("b_scale", scales * np.float32(0.05))
            pair.plain.weight("b_zero", np.zeros(columns, np.int32))
            pair.plain.node("DequantizeLinear", ["w", "w_scale", "w_zero"], "w_f", axis=0)
            pair.plain.node("DequantizeLinear", ["b", "b_scale", "b_zero"], "b_f", axis=0)
            pair.plain.node("Gemm", ["x_f", "w_f", "b_f"], "y_f", transB=1)
            names = ["x", "scale", "zero", "w", "w_scale", "w_zero", "b", "scale", "zero"]
            pair.inner.node("QGemm", names, "y", domain=_MS, alpha=1.0, transA=0, transB=1)
        pair.result()
        yield pair.case(f"gemm-{number}", "gemm")


def _pools(scheme: str) -> Iterator[Case]:
    rng = seeded(f"{scheme} pools")
    for number in range(130):
        op = ("MaxPool", "AveragePool", "GlobalAveragePool")[number % 3]
        size, depth = log_uniform(rng, 2, 64), channels(rng, 4, 512)
        if size * size * depth > 300_000:
            continue
        pair = _Pair(scheme)
        quantised = ["x", "scale", "zero", "scale", "zero"]
        last = op != "GlobalAveragePool" or number % 2 == 0
        if op == "GlobalAveragePool":
            pair.input("x", (1, depth, size, size), last=last)
            pair.plain.node(op, ["x_f"], "y_f")
            pair.inner.node("QLinearGlobalAveragePool", quantised, "y", domain=_MS, channels_last=int(last))
        else:
            window, stride, pad = POOLS[rng.integers(len(POOLS))]
            if size < 4 or size + 2 * pad < window:
                continue
            how: dict[str, Any] = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
            pair.input("x", (1, depth, size, size), last=True)
            pair.plain.node(op, ["x_f"], "y_f", **how)
            if op == "MaxPool":
                pair.inner.node("NhwcMaxPool", ["x"], "y", domain=_MS, **how)
            else:
                pair.inner.node("QLinearAveragePool", quantised, "y", domain=_MS, channels_last=1, **how)
        pair.result()
        yield replace(pair.case(f"pool-{number}", "pool"), last=last)


def _elementwise(scheme: str) -> Iterator[Case]:
    rng = seeded(f"{scheme} elementwise")
    for number in range(150):
        op = ("Add", "Add", "Mul", "Mul", "LeakyRelu", "Sigmoid", "Softmax")[number % 7]
        shape = image(rng)
        pair = _Pair(scheme)
        last = number % 3 == 0 and op in ("Add", "Mul")
        pair.input("x", shape, last=last)
        if op in ("Add", "Mul"):
            choice = rng.random() * (0.8 if last else 1.0)
            channel = (1, shape[1], 1, 1)
            if choice < 0.8:
                pair.input("z", shape if choice < 0.5 else channel, last=last)
            else:
                values = rng.integers(-50, 50, () if choice > 0.9 else channel).astype(NUMPY_TYPES[scheme])
                for draft in (pair.plain, pair.inner):
                    draft.weight("z", values)
                pair.plain.node("DequantizeLinear", ["z", "scale", "zero"], "z_f")
            pair.plain.node(op, ["x_f", "z_f"], "y_f")
            names = ["x", "scale", "zero", "z", "scale", "zero", "scale", "zero"]
            pair.inner.node(f"QLinear{op}", names, "y", domain=_MS)
            kind = "elementwise"
        elif op == "Softmax":
            axis = 1 if number % 2 else 3
            pair.plain.node(op, ["x_f"], "y_f", axis=axis)
            names = ["x", "scale", "zero", "scale", "zero"]
            pair.inner.node("QLinearSoftmax", names, "y", domain=_MS, axis=axis, opset=13)
            kind = "softmax"
        else:
            pair.plain.node(op, ["x_f"], "y_f")
            pair.inner.node(f"QLinear{op}", ["x", "scale", "zero", "scale", "zero"], "y", domain=_MS)
            kind = "activation" if op == "Sigmoid" else "elementwise"
        pair.result()
        yield replace(pair.case(f"{kind}-{number}", kind), last=last)
    for number in range(60):
        shape = image(rng) if number % 5 else (1, log_uniform(rng, 4, 2000))
        draft = Draft()
        names = [draft.weight("scale", np.float32(0.05)), draft.weight("zero", np.array(3, NUMPY_TYPES[scheme]))]
        if number % 2:
            draft.node("QuantizeLinear", [draft.input("x", shape), *names], "y")
            model = draft.model(["y"], scheme)
            yield Case(f"{scheme}-quantize-{number}", "quantize", model, model)
        else:
            draft.node("DequantizeLinear", [draft.input("x", shape, scheme), *names], "y")
            model = draft.model(["y"])
            yield Case(f"{scheme}-dequantize-{number}", "dequantize", model, model)


def _moves(scheme: str) -> Iterator[Case]:
    """Kernels that move integers, or convert only between their scales."""
    rng = seeded(f"{scheme} moves")
    for number in range(50):
        pair = _Pair(scheme)
        _, _, height, width = image(rng, 30_000)
        names = [f"x{i}" for i in range(int(rng.integers(2, 5)))]
        last = number % 3 > 0
        for name in names:
            pair.input(name, (1, channels(rng, 4, 128), height, width), last=last)
        pair.plain.node("Concat", [f"{name}_f" for name in names], "y_f", axis=1)
        triples = [part for name in names for part in (name, "scale", "zero")]
        pair.inner.node("QLinearConcat", ["scale", "zero", *triples], "y", domain=_MS, axis=3 if last else 1)
        pair.result()
        yield replace(pair.case(f"concat-{number}", "concat"), last=last)
    for number in range(60):
        op = ("Transpose", "Transpose", "Shuffle", "Slice", "Resize", "Split")[number % 6]
        shape = image(rng, 30_000 if op == "Resize" else 100_000)
        draft = Draft()
        kind = {"Slice": "copy", "Split": "copy", "Resize": "resize"}.get(op, "transpose")
        if op == "Shuffle":
            x = draft.input("x", (1, 2, *shape[1:]), scheme)
            draft.node("Transpose", [x], "y", perm=[0, 2, 1, 3, 4])
        else:
            x = draft.input("x", shape, scheme)
        if op == "Transpose":
            draft.node(op, [x], "y", perm=[0, 2, 3, 1] if number % 4 < 2 else [0, 3, 1, 2])
        elif op == "Slice":
            bounds = {"begin": 0, "end": max(1, shape[1] // 2), "axes": 1}
            draft.node(op, [x, *(draft.weight(k, np.array([v], np.int64)) for k, v in bounds.items())], "y")
        elif op == "Split":
            axis = 3 if number % 12 == 5 and shape[3] > 1 else 1
            draft.weight("split", np.array([shape[axis] // 2, shape[axis] - shape[axis] // 2], np.int64))
            draft.nodes.append(onnx.helper.make_node("Split", [x, "split"], ["y", "y2"], "y", axis=axis))
            model = draft.model(["y", "y2"], scheme)
            yield Case(f"{scheme}-{kind}-{number}", kind, model, model)
            continue
        elif op == "Resize":
            scales = draft.weight("scales", np.array([1, 1, 2, 2], np.float32))
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            if number % 12 == 4:
                how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            draft.node(op, [x, "", scales], "y", **how)
        model = draft.model(["y"], scheme)
        yield Case(f"{scheme}-{kind}-{number}", kind, model, model)

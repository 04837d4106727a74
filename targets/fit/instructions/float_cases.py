"""Cases of float kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from onnx import helper

from lpcc.targets.fit.instructions.cases import (
    MOST_MACS,
    POOLS,
    Case,
    Convolution,
    Draft,
    channels,
    convolutions,
    floats,
    image,
    log_uniform,
    seeded,
)

_AFTER = ("", "", "", "Relu", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
_ELEMENTWISE = ("Add", "Add", "Mul", "Mul", "Sub", "Div", "Max", "Relu", "Clip", "LeakyRelu", "HardSigmoid")
_MORE = ("Round", "PRelu", "Abs", "Neg", "Sqrt", "Floor", "Sum", "Min", "ThresholdedRelu", "Where", "Cast")
_ACTIVATIONS = ("Sigmoid", "Sigmoid", "Tanh", "Exp", "Erf", "Softplus", "Elu", "Log", "Pow", "Gelu", "Selu", "Mish")


def cases() -> Iterator[Case]:
    """All cases of float kernels, in fixed order."""
    for kind, count in (("conv", 220), ("pointwise", 220), ("depthwise", 220), ("grouped", 60)):
        rng = seeded(f"float {kind}")
        for number, shape in enumerate(convolutions(rng, kind, count)):
            yield _conv(rng, f"{kind}-{number}", kind, shape)
    yield from _products()
    yield from _pools()
    yield from _elementwise()
    yield from _moves()
    yield from _reductions()
    yield from _recurrent()


def _single(name: str, kind: str, draft: Draft, outputs: Sequence[str] = ("y",)) -> Case:
    model = draft.model(outputs)
    return Case(f"f32-{name}", kind, model, model)


def _conv(rng: Generator, name: str, kind: str, c: Convolution) -> Case:
    draft = Draft()
    inputs = [
        draft.input("x", (c.batch, c.cin, c.ih, c.iw)),
        draft.weight("w", floats(rng, c.cout, c.cin // c.groups, *c.kernel)),
        draft.weight("b", floats(rng, c.cout)),
    ]
    last = draft.node("Conv", inputs, "conv", **c.attributes)
    if rng.random() < 0.2:
        last = draft.node("Add", [last, draft.input("z", (c.batch, c.cout, *c.output))], "sum")
    after = str(rng.choice(_AFTER))
    if after == "Clip":
        bounds = [draft.weight("low", np.float32(0)), draft.weight("high", np.float32(6))]
        last = draft.node("Clip", [last, *bounds], "act")
    elif after:
        last = draft.node(after, [last], "act")
    return _single(name, kind, draft, [last])


def _products() -> Iterator[Case]:
    rng = seeded("float products")
    for number in range(60):
        rows = 1 if rng.random() < 0.6 else log_uniform(rng, 2, 64)
        depth, columns = log_uniform(rng, 8, 2048), log_uniform(rng, 2, 1200)
        if rows * depth * columns > MOST_MACS or depth * columns > 1_500_000:
            continue
        draft = Draft()
        transposed = int(rng.integers(2))
        weight = draft.weight("w", floats(rng, *((columns, depth) if transposed else (depth, columns))))
        inputs = [draft.input("x", (rows, depth)), weight]
        last = draft.node("Gemm", [*inputs, draft.weight("b", floats(rng, columns))], "y", transB=transposed)
        if rng.random() < 0.2:
            last = draft.node("Relu", ["y"], "r")
        yield _single(f"gemm-{number}", "gemm", draft, [last])
    for number in range(50):
        lead = [log_uniform(rng, 1, 8), log_uniform(rng, 1, 8)] if rng.random() < 0.7 else [1]
        rows, depth, columns = (log_uniform(rng, 1, 256) for _ in range(3))
        if int(np.prod(lead)) * rows * depth * columns > MOST_MACS:
            continue
        draft = Draft()
        fixed = number % 3 == 0
        first = draft.input("x", (*lead, rows, depth))
        weights = floats(rng, depth, columns)
        second = draft.weight("w", weights) if fixed else draft.input("w", (*lead, depth, columns))
        draft.node("MatMul", [first, second], "y")
        yield _single(f"matmul-{number}", "gemm" if fixed else "matmul", draft)


def _pools() -> Iterator[Case]:
    rng = seeded("float pools")
    for number in range(130):
        op = ("MaxPool", "AveragePool", "GlobalAveragePool", "MaxPool", "AveragePool", "GlobalMaxPool")[number % 6]
        size, depth = log_uniform(rng, 2, 64), channels(rng, 4, 512)
        if size * size * depth > 300_000:
            continue
        draft = Draft()
        x = draft.input("x", (1, depth, size, size))
        if op.startswith("Global"):
            draft.node(op, [x], "y")
        else:
            window, stride, pad = POOLS[rng.integers(len(POOLS))]
            if size < 4 or size + 2 * pad < window:
                continue
            draft.node(op, [x], "y", kernel_shape=[window] * 2, strides=[stride] * 2, pads=[pad] * 4)
        yield _single(f"pool-{number}", "pool", draft)


def _elementwise() -> Iterator[Case]:
    rng = seeded("float elementwise")
    for number in range(190):
        op = (*_ELEMENTWISE, *_MORE)[number % 22]
        shape = image(rng)
        if number % 10 == 9:
            shape = (1, log_uniform(rng, 4, 2000))
        draft = Draft()
        x = draft.input("x", shape)
        inputs = [x]
        attributes: dict[str, Any] = {}
        if op in ("Add", "Mul", "Sub", "Div", "Max", "Min", "Sum"):
            inputs.append(_second(rng, draft, shape))
        elif op == "Clip":
            inputs += [draft.weight("low", np.float32(0)), draft.weight("high", np.float32(6))]
        elif op == "PRelu":
            inputs.append(draft.weight("slope", floats(rng, shape[1], *[1] * (len(shape) - 2))))
        elif op == "Where":
            draft.weight("condition", rng.random(shape) > 0.5)
            inputs = ["condition", x, draft.input("z", shape)]
        elif op == "Cast":
            attributes["to"] = 7
        last = draft.node(op, inputs, "y", **attributes)
        if op == "Cast":
            model = draft.model([last])
            model.graph.output[0].type.tensor_type.elem_type = 7
            yield Case(f"f32-elementwise-{number}", "elementwise", model, model)
            continue
        yield _single(f"elementwise-{number}", "elementwise", draft, [last])
    for number in range(100):
        op = _ACTIVATIONS[number % len(_ACTIVATIONS)]
        draft = Draft(opset=20)
        inputs = [draft.input("x", image(rng, 60_000))]
        if op == "Pow":
            inputs.append(draft.weight("exponent", np.float32([2.0, 0.5, 3.0][number % 3])))
        last = draft.node(op, inputs, "y")
        if op == "Sigmoid" and rng.random() < 0.4:
            last = draft.node("Mul", ["x", "y"], "swish")
        yield _single(f"activation-{number}", "activation", draft, [last])


def _second(rng: Generator, draft: Draft, shape: Sequence[int]) -> str:
    """Second operand: an activation of the same shape, a factor for each channel, a constant, a scalar."""
    choice = rng.random()
    channel = (shape[1], *[1] * (len(shape) - 2))
    if choice < 0.4:
        return draft.input("z", shape)
    if choice < 0.6:
        return draft.input("z", (1, *channel))
    if choice < 0.8:
        return draft.weight("c", floats(rng, *channel))
    if choice < 0.9:
        return draft.weight("c", np.float32(0.5))
    return draft.weight("c", floats(rng, *shape))


def _moves() -> Iterator[Case]:
    rng = seeded("float moves")
    for number in range(50):
        draft = Draft()
        _, _, height, width = image(rng, 30_000)
        count = int(rng.integers(2, 5))
        if number % 4 == 3:  # rows of boxes or scores
            parts = [draft.input(f"x{i}", (1, height * width, log_uniform(rng, 1, 8))) for i in range(count)]
        else:
            parts = [draft.input(f"x{i}", (1, channels(rng, 4, 128), height, width)) for i in range(count)]
        draft.node("Concat", parts, "y", axis=2 if number % 4 == 3 else 1)
        yield _single(f"concat-{number}", "concat", draft)
    for number in range(100):
        shape = image(rng)
        draft = Draft()
        x = draft.input("x", shape)
        op = ("Slice", "Pad", "Split", "Slice", "Gather", "Expand", "Tile")[number % 7]
        if op == "Slice":
            axis = int(rng.choice([1, 2, 3]))
            step = 2 if axis > 1 and rng.random() < 0.4 else 1
            size = shape[axis]
            begin, end = (0, size) if step == 2 else (0, max(1, size // 2))
            bounds = {"begin": begin, "end": end, "axes": axis, "step": step}
            draft.node("Slice", [x, *(draft.weight(k, np.array([v], np.int64)) for k, v in bounds.items())], "y")
        elif op == "Pad":
            edge = int(rng.integers(1, 3)) if number % 3 else 0
            pads = [0, 0, edge, edge, 0, 0, edge, edge] if edge else [0, shape[1] // 2, 0, 0, 0, shape[1] // 2, 0, 0]
            draft.node("Pad", [x, draft.weight("pads", np.array(pads, np.int64))], "y")
        elif op == "Split":
            axis = 3 if number % 2 else 1
            if shape[axis] % 2:
                continue
            draft.weight("split", np.array([shape[axis] // 2] * 2, np.int64))
            draft.nodes.append(helper.make_node("Split", [x, "split"], ["y", "y2"], "y", axis=axis))
            yield _single(f"copy-{number}", "copy", draft, ["y", "y2"])
            continue
        elif op == "Gather":
            index = rng.permutation(shape[1])[: max(1, shape[1] // 2)].astype(np.int64)
            draft.node("Gather", [x, draft.weight("index", index)], "y", axis=1)
        elif op == "Expand":
            draft = Draft()
            x = draft.input("x", (1, shape[1], 1, 1))
            draft.node("Expand", [x, draft.weight("shape", np.array(shape, np.int64))], "y")
        else:
            draft.node("Tile", [x, draft.weight("repeats", np.array([1, 1, 1, 2], np.int64))], "y")
        yield _single(f"copy-{number}", "copy", draft)
    for number in range(70):
        draft = Draft()
        form = number % 7
        if form < 4:
            order = ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 2, 1, 3])[form]
            draft.node("Transpose", [draft.input("x", image(rng, 100_000))], "y", perm=order)
        elif form == 4:  # channel shuffle
            _, depth, height, width = image(rng, 100_000)
            draft.node("Transpose", [draft.input("x", (1, 2, depth, height, width))], "y", perm=[0, 2, 1, 3, 4])
        elif form == 5:
            rows, columns = log_uniform(rng, 4, 400), log_uniform(rng, 4, 400)
            draft.node("Transpose", [draft.input("x", (1, rows, columns))], "y", perm=[0, 2, 1])
        else:
            _, depth, height, width = image(rng, 30_000)
            draft.node("DepthToSpace", [draft.input("x", (1, 4 * depth, height, width))], "y", blocksize=2)
        yield _single(f"transpose-{number}", "transpose", draft)
    for number in range(50):
        draft = Draft()
        x = draft.input("x", image(rng, 20_000))
        scale = 2.0 if rng.random() < 0.8 else 4.0
        scales = draft.weight("scales", np.array([1, 1, scale, scale], np.float32))
        linear = number % 2 == 1
        how = str(rng.choice(["half_pixel", "align_corners"])) if linear else "asymmetric"
        attributes = {"mode": "linear" if linear else "nearest", "coordinate_transformation_mode": how}
        if not linear:
            attributes["nearest_mode"] = "floor"
        draft.node("Resize", [x, "", scales], "y", **attributes)
        yield _single(f"resize-{number}", "resize", draft)


def _reductions() -> Iterator[Case]:
    rng = seeded("float reductions")
    for number in range(60):
        op = ("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ArgMax")[number % 5]
        draft = Draft(opset=18)
        inputs, axes = [draft.input("x", image(rng, 100_000))], [[2, 3], [2, 3], [1], [3]][number % 4]
        if op == "ArgMax":
            draft.node(op, inputs, "y", axis=axes[0])
            model = draft.model(["y"])
            model.graph.output[0].type.tensor_type.elem_type = 7
            yield Case(f"f32-reduce-{number}", "reduce", model, model)
            continue
        inputs.append(draft.weight("axes", np.array(axes, np.int64)))
        draft.node(op, inputs, "y", keepdims=number % 2)
        yield _single(f"reduce-{number}", "reduce", draft)
    for number in range(50):
        draft = Draft()
        axis = -1 if number % 3 else 1
        shape = (log_uniform(rng, 1, 64), log_uniform(rng, 2, 1000)) if number % 2 else image(rng, 40_000)
        draft.node("Softmax", [draft.input("x", shape)], "y", axis=axis)
        yield _single(f"softmax-{number}", "softmax", draft)
    for number in range(60):
        op = ("LayerNormalization", "BatchNormalization", "InstanceNormalization", "LRN")[number % 4]
        draft = Draft()
        shape = image(rng, 40_000 if op == "LRN" else 100_000)
        width = shape[-1] if op == "LayerNormalization" else shape[1]
        vectors = [draft.weight(f"v{i}", np.abs(floats(rng, width)) + 0.5) for i in range(4)]
        x = draft.input("x", shape)
        if op == "LRN":
            draft.node(op, [x], "y", size=5)
        else:
            draft.node(op, [x, *vectors[: 4 if op[0] == "B" else 2]], "y")
        yield _single(f"norm-{number}", "norm", draft)


def _recurrent() -> Iterator[Case]:
    rng = seeded("float recurrent")
    for number in range(40):
        op, gates = (("LSTM", 4), ("GRU", 3))[number % 2]
        steps, width, hidden = log_uniform(rng, 1, 40), log_uniform(rng, 8, 256), log_uniform(rng, 8, 192)
        directions = 1 + int(rng.integers(2))
        if steps * directions * gates * hidden * (width + hidden) > MOST_MACS:
            continue
        draft = Draft()
        inputs = [
            draft.input("x", (steps, 1, width)),
            draft.weight("w", floats(rng, directions, gates * hidden, width)),
            draft.weight("r", floats(rng, directions, gates * hidden, hidden)),
            draft.weight("b", floats(rng, directions, 2 * gates * hidden)),
        ]
        way = "bidirectional" if directions == 2 else "forward"
        draft.node(op, inputs, "y", hidden_size=hidden, direction=way)
        yield _single(f"rnn-{number}", "rnn", draft)

"""How long ``lpcc inspect`` takes, for any target."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpcc.targets import BUILTIN
from lpcc.targets.fit.check import Check

_LIMIT_S = 1.0
_RUNS = 3


def checks(truth: Path) -> list[Check]:
    """Seconds of the whole process, the slowest target; the best of three runs each, as other work only adds."""
    del truth
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        onnx.save(residual_chain(100), path)
        took = {name: min(_seconds(path, name) for _ in range(_RUNS)) for name in BUILTIN}
    slowest = max(took, key=lambda name: took[name])
    return [
        Check(
            "lpcc inspect of a 300-node model, any target",
            f"< {_LIMIT_S:g} s",
            f"{took[slowest]:.2f} s",
            took[slowest] < _LIMIT_S,
            f"{len(took)} targets, slowest {slowest}, best of {_RUNS}",
        )
    ]


def residual_chain(blocks: int, channels: int = 32) -> onnx.ModelProto:
    """A network of 3 x `blocks` nodes: 3x3 convolution, residual sum, ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "x"
    for index in range(blocks):
        weights.append(numpy_helper.from_array(rng.normal(size=(channels, channels, 3, 3)).astype("f"), f"w{index}"))
        nodes += [
            helper.make_node("Conv", [tensor, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4),
            helper.make_node("Add", [f"c{index}", tensor], [f"s{index}"], name=f"sum{index}"),
            helper.make_node("Relu", [f"s{index}"], [f"r{index}"], name=f"relu{index}"),
        ]
        tensor = f"r{index}"
    shape = [1, channels, 28, 28]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _seconds(model: Path, target: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "lpcc", "inspect", str(model), "--target", target, "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start

"""Time of the exact pipeline against onnxsim: whole processes, interleaved, medians.

    python benchmarks/exact_speed.py [--repeats 5] [MODEL ...]

Times `lpcc optimize MODEL --pipeline exact` and `onnxsim MODEL` on generated graphs of 5,000 and 20,000 nodes and on
the models given, and prints both medians with their ratio. onnxsim must be on the PATH; without it only lpcc is timed.

The target is one whose speed is predicted. For `--target host` lpcc also runs the models before and after in turns, to
measure which is faster; onnxsim does nothing of the kind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

SIZES = (5_000, 20_000)
_CHANNELS = 8


def generated(nodes: int) -> onnx.ModelProto:
    """A network of about `nodes` nodes as exporters write them.

    Residual blocks of Conv, BatchNormalization and Relu with an Identity, a Dropout and weights in Constant nodes;
    every fourth block flattens and restores its tensor by a chain of Shape, Gather, Concat and Reshape.
    """
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(op: str, *inputs: str, **attrs: object) -> str:
        name = f"{op.lower()}_{len(made)}"
        made.append(helper.make_node(op, list(inputs), [name], name=f"node_{len(made)}", **attrs))
        return name

    def weight(*shape: int) -> str:
        values = rng.uniform(0.1, 0.4, shape).astype(np.float32)
        name = f"weight_{len(weights)}"
        weights.append(numpy_helper.from_array(values, name))
        return name

    def number(*values: int) -> str:
        return add("Constant", value=numpy_helper.from_array(np.array(values, np.int64)))

    def block(x: str, chain: bool) -> str:
        kernel = add("Constant", value=numpy_helper.from_array(_kernel(rng)))
        y = add("Conv", x, kernel, weight(_CHANNELS), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        y = add("BatchNormalization", y, *(weight(_CHANNELS) for _ in range(4)))
        y = add("Dropout", add("Identity", add("Relu", y)))
        if chain:
            batch = add("Gather", add("Shape", y), number(0))
            flat = add("Reshape", y, add("Concat", batch, number(-1), axis=0))
            y = add("Reshape", flat, add("Concat", batch, number(_CHANNELS, 8, 8), axis=0))
        return add("Add", x, y)

    x, count = "x", 0
    while len(made) < nodes:
        x, count = block(x, count % 4 == 3), count + 1
    info = [helper.make_tensor_value_info(name, 1, ["N", _CHANNELS, 8, 8]) for name in ("x", x)]
    graph = helper.make_graph(made, "generated", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _kernel(rng: np.random.Generator) -> np.ndarray:
    scale = 0.3 / (3 * _CHANNELS**0.5)
    return (scale * rng.standard_normal((_CHANNELS, _CHANNELS, 3, 3))).astype(np.float32)


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def main() -> int:
    """Time both tools on all models and print the table."""
    parser = argparse.ArgumentParser(description="lpcc's exact pipeline against onnxsim")
    parser.add_argument("models", nargs="*", type=Path, help="model files to time besides the generated ones")
    parser.add_argument("--target", default="arm-cortex-a", help="the target for lpcc")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs per model")
    given = parser.parse_args()
    onnxsim = shutil.which("onnxsim", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    print(f"{'model':<32}{'nodes':>8}{'lpcc s':>10}{'onnxsim s':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for size in SIZES:
            models.append(Path(folder) / f"generated-{size}.onnx")
            onnx.save(generated(size), models[-1])
        for model in [*models, *given.models]:
            target = str(Path(folder) / "out.onnx")
            ours = [sys.executable, "-m", "lpcc", "optimize", str(model), "-q", "-o", target]
            ours += ["--pipeline", "exact", "--target", given.target]
            times: dict[str, list[float]] = {"lpcc": [], "onnxsim": []}
            for _ in range(given.repeats):
                times["lpcc"].append(seconds(ours))
                if onnxsim:
                    times["onnxsim"].append(seconds([onnxsim, str(model), target]))
            nodes = len(onnx.load(model, load_external_data=False).graph.node)
            mine = statistics.median(times["lpcc"])
            theirs = statistics.median(times["onnxsim"]) if onnxsim else float("nan")
            print(f"{model.stem:<32}{nodes:>8}{mine:>10.2f}{theirs:>12.2f}{mine / theirs:>8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

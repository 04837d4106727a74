"""A small network in Q/DQ form, single layers to be computed by hand, and the runtimes that stand-ins stand for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from lpcc.data import Dataset
from lpcc.emulate import Emulator
from lpcc.errors import UsageError
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.target import Target
from lpcc.testing.golden import read_model

Array = np.ndarray[Any, Any]

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,13,13] image) => (float[batch,10] logits)
<float[16,3,3,3] w1, float[16,16,3,3] w2, float[16] b2, float[24,8,3,3] w3, float[24,1,3,3] w4, float[24,24,1,1] w5,
 float[10,24] fc>
{
  [conv1] c1 = Conv<pads=[1,0,0,1], strides=[2,2]>(image, w1)
  [relu1] r1 = Relu(c1)
  [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
  [add] s = Add(c2, r1)
  [relu2] r2 = Relu(s)
  [grouped] c3 = Conv<group=2, pads=[2,2,2,2], dilations=[2,2]>(r2, w3)
  [depthwise] c4 = Conv<group=24, pads=[1,1,1,1]>(c3, w4)
  [pointwise] c5 = Conv(c4, w5)
  [add2] s2 = Add(c5, c3)
  [pool] p = GlobalAveragePool(s2)
  [flat] f = Flatten(p)
  [fc] logits = Gemm<transB=1>(f, fc)
}
"""

_AVX2 = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 4
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.add_session_config_entry("session.qdqisint8allowed", sys.argv[4])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as feeds:
    values = session.run(None, dict(feeds))
np.savez(sys.argv[3], **{o.name: value for o, value in zip(session.get_outputs(), values)})
"""


def images(count: int) -> Array:
    return np.random.default_rng(7).standard_normal((count, 3, 13, 13)).astype(np.float32)


def _quantized(target: str) -> onnx.ModelProto:
    graph = from_proto(read_model(NETWORK))
    ctx = Context(target=Target.load(target), calibration=Dataset.from_arrays({"image": images(16)}))
    run_pipeline(graph, Pipeline.parse("exact,quantize{ranges=minmax min-work=0}"), ctx)
    return to_proto(graph)


@pytest.fixture(scope="session")
def for_arm() -> onnx.ModelProto:
    """The network with signed activations."""
    return _quantized("arm-cortex-a72")


@pytest.fixture(scope="session")
def for_x86() -> onnx.ModelProto:
    """The network with unsigned activations and weights of 8 bits, for x86 with VNNI."""
    return _quantized("x86-avx512-vnni")


@pytest.fixture(scope="session")
def samples() -> Array:
    """Images for the network."""
    return images(6)


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The arm64 runtime; skips, with the reason, where there is none."""
    try:
        found = Emulator.find()
        found.plain_machine("cortex-a72").close()
    except UsageError as error:
        pytest.skip(str(error))
    return found


Runner = Callable[..., dict[str, Array]]


@pytest.fixture
def on_avx2(tmp_path: Path) -> Runner:
    """Runs a model in this onnxruntime on an emulated x86 processor that has AVX2 and no VNNI; skips without QEMU."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed")

    def run(model: onnx.ModelProto, feeds: Mapping[str, Array], *, signed: bool = False) -> dict[str, Array]:
        paths = [tmp_path / name for name in ("model.onnx", "feeds.npz", "found.npz", "run.py")]
        onnx.save(model, paths[0])
        np.savez(paths[1], **feeds)
        paths[3].write_text(_AVX2)
        site = Path(onnxruntime.__file__).parents[1]
        done = subprocess.run(
            [
                qemu,
                "-cpu",
                "max",
                str(Path(sys.executable).resolve()),
                str(paths[3]),
                *map(str, paths[:3]),
                str(int(signed)),
            ],
            env={"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode < 0 or "Illegal instruction" in done.stderr:
            pytest.skip(f"this QEMU cannot run onnxruntime: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        with np.load(paths[2]) as found:
            return dict(found)

    return run


@pytest.fixture(scope="session")
def layer() -> Callable[..., onnx.ModelProto]:
    """Makes a model of one quantised layer that takes and gives integers as floats."""
    return _one_layer


def _one_layer(
    weights: Array,
    zero: int,
    scale: float,
    bias: Array | None = None,
    op: str = "Conv",
    *,
    relu: bool = False,
    **attrs: Any,
) -> onnx.ModelProto:
    """Reads ``integer - zero``; writes ``round(sum * scale)`` as u8 with zero point 128, or 0 behind a Relu."""
    out = 0 if relu else 128
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(zero),
        "w": weights,
        "w_scale": np.float32(1),
        "w_zero": np.int8(0),
        "b": None if bias is None else bias.astype(np.int32),
        "y_scale": np.float32(1 / scale),
        "y_zero": np.uint8(out),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["v"]),
        helper.make_node(op, ["x", "v"] + (["c"] if bias is not None else []), ["t"], name="layer", **attrs),
        helper.make_node("QuantizeLinear", ["r" if relu else "t", "y_scale", "y_zero"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "one", "y_zero"], ["z"]),
    ]
    if bias is not None:
        nodes.append(helper.make_node("DequantizeLinear", ["b", "w_scale"], ["c"]))
    if relu:
        nodes.append(helper.make_node("Relu", ["t"], ["r"]))
    rank = weights.ndim
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "one",
        [value("image", onnx.TensorProto.FLOAT, [f"i{index}" for index in range(rank)])],
        [value("z", onnx.TensorProto.FLOAT, [f"o{index}" for index in range(rank)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if array is not None],
    )
    return to_proto(from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))

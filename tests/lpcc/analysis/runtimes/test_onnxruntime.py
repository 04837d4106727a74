"""The kernels predicted for onnxruntime are those of the optimised models that it saves, operator by operator.

``graphs.txt`` has small graphs, each odd in its own way; ``graphs.json`` what onnxruntime made of them and of the zoo's
float models, by processor. ``pytest --update-golden`` writes the latter anew: for this machine's processor, and for Arm
where the emulator is set up. The other tests compare with the runtime itself.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from lpcc.analysis.kernels import Kernel, kernels
from lpcc.analysis.types import annotate
from lpcc.data import Dataset
from lpcc.emulate import Emulator
from lpcc.errors import LpccError
from lpcc.graph import from_proto, to_proto
from lpcc.pipeline import Context, Pipeline
from lpcc.pipeline.runner import run_pipeline
from lpcc.runtime import Session
from lpcc.runtime.fused import count_kernels, optimised
from lpcc.target import Target
from lpcc.testing.golden import read_model

HERE = Path(__file__).parent
ISA = {"x86-avx512": ("x86", "avx2", "avx512", "vnni"), "aarch64": ("aarch64", "neon", "dotprod")}
ZOO = (
    "cifar10_resnet20_jpegft",
    "mlperf_resnet8_cifar10",
    "fashion_mnist_vgg",
    "mobilenetv2_imagenet",
    "squeezenet1_1_imagenet",
    "fastestdet_coco",
    "ultraface_rfb320",
    "deeplabv3_mnv2_dm05_person",
    "ppocr_mobile_v2_cls",
)
RECORDED: dict[str, dict[str, dict[str, int]]] = json.loads((HERE / "graphs.json").read_text())

Optimise = Callable[[onnx.ModelProto], onnx.ModelProto]


def graphs() -> dict[str, str]:
    """The graphs of ``graphs.txt`` by name; those that leave the activations' type open, in both types."""
    found = {}
    for part in (HERE / "graphs.txt").read_text().split("--- ")[1:]:
        head, _, body = part.partition("\n")
        name, _, opset = head.partition(" ")
        text = f'<ir_version: 8, opset_import: ["": {opset or 17}, "com.microsoft": 1]>\n{body}'
        if "TYPE" not in text:
            found[name] = text
            continue
        found[f"{name}_u8"] = text.replace("TYPE", "uint8").replace("ZERO", "128")
        found[f"{name}_s8"] = text.replace("TYPE", "int8").replace("ZERO", "0")
    return found


GRAPHS = graphs()
ON_X86_IN_S8 = {"int8_branches_s8", "int8_residual_s8"}
"""Signed activations have no kernels on x86; where their Q/DQ pairs have several readers, some more of them stay."""


def plain(op: str, *, integer: bool) -> str:
    """One name for an operator, whoever tells of it: fused or not, in a layout or not."""
    bare = op.rpartition("::")[2]
    if bare in ("ReorderInput", "ReorderOutput", "Transpose"):
        return "layout"
    for prefix in ("Fused", "NhwcFused", "QLinear"):
        bare = bare.removeprefix(prefix)
    bare = {"QGemm": "Gemm", "NhwcMaxPool": "MaxPool", "Upsample": "Resize"}.get(bare, bare)
    return f"int8 {bare}" if integer else bare


def ours(model: onnx.ModelProto, isa: tuple[str, ...]) -> dict[str, int]:
    def is_integer(kernel: Kernel) -> bool:
        moves = {"view", "copy", "transpose", "resize", "quantize", "dequantize"}
        named = kernel.op.startswith("MaxPool") or kernel.op in ("Clip", "Max")  # no other name for integers
        by_name = named or "Integer" in kernel.op or "Dynamic" in kernel.op
        return kernel.dtype == "int8" and kernel.kind not in moves and not by_name

    graph = from_proto(model)
    annotate(graph)
    found: Counter[str] = Counter()
    for kernel in kernels(graph, isa=isa):
        name = plain(kernel.op, integer=is_integer(kernel))
        found[name] += not (name == "layout" and kernel.kind == "view")
    return {name: count for name, count in sorted(found.items()) if count}


def theirs(model: onnx.ModelProto) -> dict[str, int]:
    found: Counter[str] = Counter()
    for op, count in count_kernels(model).by_op.items():
        found[plain(op, integer=op.rpartition("::")[2].startswith(("QLinear", "QGemm")))] += count
    return dict(sorted(found.items()))


def quantised(zoo: Any, name: str, target: str, options: str = "") -> onnx.ModelProto:
    feeds = zoo.calib(name, 2)
    model = onnx.load(zoo.model(name))
    graph = from_proto(model)
    data = Dataset.from_arrays(feeds, inputs=Session(model).inputs)
    pipeline = Pipeline.parse(f"exact,quantize{{ranges=minmax {options}}}")
    run_pipeline(graph, pipeline, Context(target=Target.load(target), calibration=data))
    return to_proto(graph)


@pytest.fixture(scope="module")
def arm() -> Iterator[Optimise]:
    """What onnxruntime for Arm makes of a model."""
    try:
        with Emulator.find().plain_machine("cortex-a76") as machine:
            yield machine.optimized
    except LpccError as error:
        pytest.skip(str(error))


@pytest.fixture
def here() -> Optimise:
    """What onnxruntime on this machine makes of a model."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not avx512():
        pytest.skip("compared on x86 with AVX-512; other processors have other blocks of channels")
    return lambda model: optimised(model)


def avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "avx512f" in cpuinfo.read_text()


@pytest.mark.parametrize("processor", ISA)
@pytest.mark.parametrize("name", GRAPHS)
def test_small_graphs_as_recorded(name: str, processor: str) -> None:
    if processor.startswith("x86") and name in ON_X86_IN_S8:
        pytest.skip("signed activations on x86")
    assert ours(read_model(GRAPHS[name]), ISA[processor]) == RECORDED[processor][name]


@pytest.mark.parametrize("processor", ISA)
@pytest.mark.parametrize("name", ZOO)
def test_float_networks_as_recorded(zoo: Any, name: str, processor: str) -> None:
    assert ours(onnx.load(zoo.model(name)), ISA[processor]) == RECORDED[processor][name]


@pytest.mark.parametrize(
    ("name", "kind", "nodes"),
    [
        ("layer_norm_spelt_out", "norm", 9),
        ("rms_norm_spelt_out", "norm", 6),
        ("gelu_other_order", "activation", 5),
        ("lstm", "rnn", 1),
        ("einsum", "matmul", 1),
        ("quick_gelu", "activation", 3),
    ],
)
def test_a_recognised_group_is_one_kernel_of_its_kind(name: str, kind: str, nodes: int) -> None:
    graph = from_proto(read_model(GRAPHS[name]))
    annotate(graph)
    (kernel,) = kernels(graph, isa=ISA["aarch64"])
    assert (kernel.kind, len(kernel.nodes)) == (kind, nodes)


def test_a_batch_norm_in_blocks_is_a_depthwise_convolution() -> None:
    graph = from_proto(read_model(GRAPHS["batch_norm_in_blocks"]))
    annotate(graph)
    (norm,) = (k for k in kernels(graph, isa=ISA["x86-avx512"]) if k.kind == "depthwise")
    assert (norm.geometry.groups, norm.geometry.depth, norm.macs) == (32, 1, 32 * norm.geometry.pixels)


def test_small_graphs_here(here: Optimise) -> None:
    for name, text in GRAPHS.items():
        if name not in ON_X86_IN_S8:
            model = read_model(text)
            assert ours(model, ISA["x86-avx512"]) == theirs(here(model)), name


@pytest.mark.slow
def test_small_graphs_on_arm(arm: Optimise) -> None:
    for name, text in GRAPHS.items():
        model = read_model(text)
        assert ours(model, ISA["aarch64"]) == theirs(arm(model)), name


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if i < 3 else pytest.mark.slow) for i, n in enumerate(ZOO)])
def test_int8_networks_here(zoo: Any, here: Optimise, name: str) -> None:
    model = quantised(zoo, name, "x86-avx512-vnni", "min-work=0")
    assert ours(model, ISA["x86-avx512"]) == theirs(here(model))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if i < 3 else pytest.mark.slow) for i, n in enumerate(ZOO)])
def test_networks_partly_in_int8_here(zoo: Any, here: Optimise, name: str) -> None:
    """As `quantize` leaves them: the kernels are just those predicted, and nearly as many changes of layout."""
    model = quantised(zoo, name, "x86-avx512-vnni")
    expected, found = ours(model, ISA["x86-avx512"]), theirs(here(model))
    layout = found.pop("layout", 0)
    assert expected.pop("layout", 0) == pytest.approx(layout, rel=0.15, abs=2)
    assert expected == found


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_int8_networks_on_arm(zoo: Any, arm: Optimise, name: str) -> None:
    model = quantised(zoo, name, "arm-cortex-a76", "min-work=0")
    assert ours(model, ISA["aarch64"]) == theirs(arm(model))


def test_record(request: pytest.FixtureRequest, zoo: Any) -> None:
    """Under ``--update-golden``, write ``graphs.json`` anew for the processors at hand."""
    if not request.config.getoption("--update-golden"):
        pytest.skip("only under --update-golden")
    models = {name: read_model(text) for name, text in GRAPHS.items()}
    models |= {name: onnx.load(zoo.model(name)) for name in ZOO}
    for processor, fixture in (("x86-avx512", "here"), ("aarch64", "arm")):
        optimise: Optimise = request.getfixturevalue(fixture)
        RECORDED[processor] = {name: theirs(optimise(model)) for name, model in models.items()}
    lines = (
        f" {json.dumps(processor)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(counts)}" for name, counts in found.items())
        + "\n }"
        for processor, found in RECORDED.items()
    )
    (HERE / "graphs.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")

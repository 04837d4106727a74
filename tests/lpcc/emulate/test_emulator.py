"""With the real emulator: skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc import optimize
from lpcc.emulate import Emulator, Machine, check, ratios
from lpcc.errors import ModelError, UsageError
from lpcc.runtime import Session

REPEATABLE = 0.0003
X = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def machine(emulator: Emulator) -> Iterator[Machine]:
    with emulator.machine("cortex-a72") as found:
        yield found


def test_counts_repeat(machine: Machine, network: onnx.ModelProto) -> None:
    first, second = machine.count(network), machine.count(network)
    assert first.mac == second.mac
    assert abs(first.total - second.total) < 2000  # of Python and onnxruntime; nothing beside a network of real size


def test_multiply_adds_are_those_of_the_network(machine: Machine, network: onnx.ModelProto) -> None:
    macs = 16 * 16 * 8 * 9 * (3 + 8) + 8 * 10
    assert macs / 4 <= machine.count(network).mac < 1.1 * macs / 4  # four floats in an instruction


def test_kernels_and_idle_make_the_total(machine: Machine, network: onnx.ModelProto) -> None:
    counts = machine.count_kernels(network)
    assert counts.kernels[0].op == "FusedConv"
    parts = sum(kernel.total for kernel in counts.kernels) + machine.idle().total
    assert abs(parts - counts.total) < 0.02 * counts.total
    assert sum(kernel.mac for kernel in counts.kernels) == counts.mac


def test_the_optimised_graph_has_the_kernels(machine: Machine, network: onnx.ModelProto) -> None:
    ops = [node.op_type for node in machine.optimized(network).graph.node]
    assert ops == [kernel.op for kernel in machine.count_kernels(network).kernels]
    assert "FusedConv" in ops


def test_agreement(machine: Machine, network: onnx.ModelProto) -> None:
    found = check(machine, network, [{"x": X}, {"x": -X}])
    assert found.agreement.samples == 2
    assert found.agreement.worst_relative_error < 1e-5
    assert found.agreement.agreement == 100
    assert found.kernels is not None
    assert found.kernels.worst_relative_error < 1e-5
    assert found.counts is not None
    assert ratios(found.counts, found.counts) == {"total": 1, "mac": 1, "other": 1}


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
@pytest.mark.parametrize("group", [1, 16])
def test_int8_convolutions_are_the_same_bit_for_bit(emulator: Emulator, cpu: str, group: int) -> None:
    rng = np.random.default_rng(group)
    weights = {
        "xs": np.float32(0.03),
        "xz": np.int8(3),
        "w": rng.integers(-127, 128, (16, 16 // group, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, 16).astype(np.float32),
        "wz": np.zeros(16, np.int8),
        "ys": np.float32(0.3),
        "yz": np.int8(5),
        "b": rng.integers(-1000, 1000, 16).astype(np.int32),
    }
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT8, [1, 16, 20, 20]) for n in "xy")
    node = onnx.helper.make_node("QLinearConv", ["x", *weights], ["y"], pads=[1, 1, 1, 1], group=group)
    initialisers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph([node], "g", [x], [y], initialisers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    feeds = {"x": rng.integers(-128, 128, (1, 16, 20, 20)).astype(np.int8)}
    found = emulator.run(model, feeds, cpu)["y"]
    assert found.std() > 10
    assert np.array_equal(found, Session(model).run(feeds)["y"])


def test_models_come_as_files_and_bytes(machine: Machine, network: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network, path)
    expected = machine.run(network, {"x": X})["y"]
    for model in (path, path.read_bytes()):
        assert np.array_equal(machine.run(model, {"x": X})["y"], expected)


def test_a_model_that_the_runtime_is_too_old_for(machine: Machine, network: onnx.ModelProto) -> None:
    newer = onnx.ModelProto()
    newer.CopyFrom(network)
    newer.ir_version = 99
    with pytest.raises(ModelError, match=r"^onnxruntime 1\.\d+\.\d+ for aarch64: .*IR version: 99"):
        machine.count(newer)


def test_inputs_that_do_not_fit(machine: Machine, network: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="x"):
        machine.run(network, {"x": X[:, :, :5]})
    with pytest.raises(ModelError, match="input `x` is of type"):
        machine.run(network, {"x": X.astype(object)})


def test_kernels_of_a_model_with_subgraphs(machine: Machine) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) {
            t = Constant <value = bool {1}> ()
            c = Not (t)
            i = If (c) <
                then_branch = a () => (float[4] u) { u = Exp (x) },
                else_branch = b () => (float[4] v) { v = Sqrt (x) v2 = Exp (x) } >
            r = ReduceSum (x)
            p = Less (r, r)
            y = If (p) <
                then_branch = a () => (float[4] w) { w = Exp (i) },
                else_branch = b () => (float[4] z) { k = Exp (i) z = Sqrt (k) } >
        }"""
    )
    with pytest.raises(ModelError, match="subgraphs"):
        machine.count_kernels(model, {"x": np.ones(4, np.float32)})


def test_an_error_in_a_list_leaves_the_others(emulator: Emulator, network: onnx.ModelProto) -> None:
    good, bad, again = emulator.each([network, b"nonsense", network], "cortex-a76", [{"x": X}] * 3)
    assert isinstance(bad, ModelError)
    assert not isinstance(good, ModelError)
    assert not isinstance(again, ModelError)
    assert good.mac == again.mac


def test_the_first_error_of_a_list_says_where(emulator: Emulator) -> None:
    with pytest.raises(ModelError, match=r"^model 0: "):
        emulator.count([b"nonsense"], "cortex-a72", [{}])


def test_unknown_processor(emulator: Emulator) -> None:
    with pytest.raises(UsageError, match="no such processor"):
        emulator.machine("z80")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2_imagenet", "mlperf_resnet8_cifar10"])
def test_whole_networks(emulator: Emulator, zoo: Any, name: str) -> None:
    model = onnx.load(zoo.model(name))
    feeds = zoo.eval(name, 1)[0]
    with emulator.machine("cortex-a72") as one, emulator.machine("cortex-a72") as other:
        counts, again = one.count_kernels(model, feeds), other.count(model, feeds)
        found = check(one, model, [feeds])
    assert abs(again.total / counts.total - 1) < REPEATABLE
    assert found.agreement.worst_relative_error < 1e-5
    assert sum(kernel.mac for kernel in counts.kernels) == pytest.approx(counts.mac, rel=REPEATABLE)


@pytest.mark.slow
def test_an_int8_network_runs_the_same_graph_bit_for_bit(emulator: Emulator, zoo: Any, tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    np.savez(images, **zoo.calib("mlperf_resnet8_cifar10", 32))
    done = optimize(zoo.model("mlperf_resnet8_cifar10"), target="arm-cortex-a72", calib=str(images))
    feeds = zoo.eval("mlperf_resnet8_cifar10", 1)[0]
    first = 32 * 32 * 16 * 3 * 3 * 3  # multiply-accumulates of the first convolution
    for cpu in ("cortex-a72", "cortex-a76"):
        with emulator.machine(cpu) as machine:
            found = check(machine, done.model, [feeds])
        assert found.counts is not None
        assert found.counts.classes["fp_mac"] < first / 100  # all convolutions are on integers
        assert found.kernels is not None
        assert found.kernels.worst_relative_error == 0

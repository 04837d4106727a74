from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.errors import ModelError
from lpcc.runtime import Session, TensorSpec, session, with_outputs

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "w"], ["a"]),
            helper.make_node("Shape", ["a"], ["s"]),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([-1, -2, -3], np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("optimise", [True, False])
def test_runs_protos_bytes_and_files(tmp_path: Path, optimise: bool) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    for source in (model(), model().SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        s = Session(source, optimise=optimise, threads=1, arena=False)
        assert s.inputs == (TensorSpec("x", np.dtype(np.float32), ("n", 3)),)
        assert [spec.name for spec in s.outputs] == ["y"]
        np.testing.assert_array_equal(s.run({"x": X})["y"], np.maximum(X - [1, 2, 3], 0))


def test_large_models_go_through_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MESSAGE_LIMIT", 100)
    large = model()
    large.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1000, 3), np.float32), "w"))
    before = large.SerializeToString()
    out = Session(large).run({"x": np.zeros((1000, 3), np.float32)})["y"]
    assert out.min() == 1
    assert large.SerializeToString() == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", "onnxruntime refuses the model: No graph was found in the protobuf."),
        (b"\x89PNG", "onnxruntime refuses the model: Failed to load model because protobuf parsing failed."),
        (Path("/no/such.onnx"), "File doesn't exist"),
    ],
)
def test_refusals_are_one_line(source: bytes | Path, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as error:
        Session(source)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert "ONNXRuntimeError" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_failing_run_is_one_quiet_line(capfd: pytest.CaptureFixture[str]) -> None:
    broken = model()
    broken.graph.node[0].op_type = "Reshape"
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([7, -1]), "w"))
    broken.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError) as error:
        Session(broken).run({"x": X})
    assert "onnxruntime could not run the model: Non-zero status code returned while running Reshape" in str(
        error.value
    )
    assert "Input shape:{2,3}, requested shape:{7,-1}" in str(error.value)
    assert "onnxruntime_src" not in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ModelError, match="Required inputs"):
        Session(model()).run({})


@pytest.mark.parametrize("optimise", [True, False])
def test_with_outputs_gives_what_is_inside(optimise: bool) -> None:
    original = model()
    opened = with_outputs(original, ["a", "s", "y", "a"])
    s = Session(opened, optimise=optimise)
    assert [spec.name for spec in s.outputs] == ["y", "a", "s"]
    out = s.run({"x": X}, ["a", "s"])
    assert list(out) == ["a", "s"]
    np.testing.assert_array_equal(out["a"], X - [1, 2, 3])
    assert out["s"].tolist() == [2, 3]
    assert len(original.graph.output) == 1
    with pytest.raises(ModelError, match="no node of the model makes a tensor named `x`"):
        with_outputs(original, ["x"])


def test_with_outputs_works_on_every_tensor_of_the_zoo(zoo: Any) -> None:
    for name in zoo.names:
        proto = onnx.load(zoo.model(name))
        names = [o for node in proto.graph.node for o in node.output if o]
        have = {spec.name for spec in Session(with_outputs(proto, names)).outputs}
        assert have >= set(names)


def test_unknown_ranks_are_no_scalars() -> None:
    free = model()
    free.graph.input[0].type.tensor_type.ClearField("shape")
    assert Session(free).inputs == (TensorSpec("x", np.dtype(np.float32), None),)


def test_sequences_pass_through() -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    s = Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert s.outputs[0] == TensorSpec("y", None, None) or s.outputs[0].dtype is None
    out = s.run({"x": X})["y"]
    assert isinstance(out, list)
    assert len(out) == 2


def test_signed_integers_in_front_of_a_transpose_load_at_every_opset() -> None:
    """On x86 onnxruntime 1.31 refuses what it made of such a model of opset 21 itself."""
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
            helper.make_node("Exp", ["t"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])],
        [scale, zero],
    )
    for opset in (17, 21):
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        (found,) = Session(proto).run({"x": X}).values()
        np.testing.assert_allclose(found, np.exp(X.T), rtol=1e-4)

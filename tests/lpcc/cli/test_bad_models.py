"""Every command that reads a model refuses a bad one in one line, with exit code 3, and leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _model(nodes: list[Any], weights: list[Any]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def _add(weight: Any) -> bytes:
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def _outside(location: str, offset: int = 0) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": 8}.items():
        tensor.external_data.add(key=key, value=str(value))
    return _add(tensor)


WEIGHT = numpy_helper.from_array(np.ones(2, np.float32), "w")
CYCLE = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "a"], ["b"])]
BAD = {
    "empty": b"",
    "truncated": _add(WEIGHT)[:-20],
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "text": b"not a model at all\n" * 10,
    "cycle": _model([*CYCLE, helper.make_node("Relu", ["b"], ["y"])], []),
    "undefined tensor": _model([helper.make_node("Add", ["x", "nowhere"], ["y"])], []),
    "unknown operator": _model([helper.make_node("Frobnicate", ["x"], ["y"])], []),
    "data outside the folder": _outside("../secret.bin"),
    "data at an absolute path": _outside("/etc/passwd"),
    "data past the end": _outside("weights.bin", offset=1000),
    "data missing": _outside("missing.bin"),
    "data shorter than the shape": _add(TensorProto(name="w", data_type=1, dims=[2], raw_data=b"1234")),
    "terabytes": _add(TensorProto(name="w", data_type=1, dims=[1 << 40], raw_data=b"12345678")),
    "overflowing shape": _add(TensorProto(name="w", data_type=1, dims=[1 << 33, 1 << 33], raw_data=b"12345678")),
    "negative shape": _add(TensorProto(name="w", data_type=1, dims=[-2], raw_data=b"12345678")),
}
COMMANDS = {
    "optimize": ("-t", "arm-cortex-a72", "-p", "dce", "--json", "out.json"),
    "inspect": ("-t", "arm-cortex-a72", "--json", "out.json"),
    "print": (),
    "bench": ("--seconds", "0", "--pairs", "1", "--json", "out.json"),
    "bisect": ("-t", "arm-cortex-a72", "-p", "dce", "--json", "out.json"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (inner / "weights.bin").write_bytes(bytes(8))
    monkeypatch.chdir(inner)
    return inner


@pytest.mark.parametrize("wrong", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_model_is_refused(lpcc: Callable[..., Any], folder: Path, wrong: str, command: str) -> None:
    Path("bad.onnx").write_bytes(BAD[wrong])
    done = lpcc(command, "bad.onnx", *COMMANDS[command])
    assert done.out == ""
    assert done.error.startswith("lpcc: error: ")
    assert "bad.onnx" in done.error
    assert len(done.error) < 500
    assert done.code == 3
    assert {path.name for path in folder.iterdir()} == {"bad.onnx", "weights.bin"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_no_file(lpcc: Callable[..., Any], folder: Path, command: str, name: str) -> None:
    done = lpcc(command, name, *COMMANDS[command])
    assert done.code == 3
    assert name in done.error


def test_diff_names_the_bad_one(lpcc: Callable[..., Any], folder: Path) -> None:
    Path("good.onnx").write_bytes(_add(WEIGHT))
    Path("bad.onnx").write_bytes(BAD["truncated"])
    onnx.checker.check_model("good.onnx")
    for pair in (("good.onnx", "bad.onnx"), ("bad.onnx", "good.onnx")):
        done = lpcc("diff", *pair)
        assert done.code == 3
        assert "bad.onnx" in done.error

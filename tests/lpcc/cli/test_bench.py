from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

BRIEF = ("--seconds", "0", "--pairs", "3", "--dim", "H=8", "--dim", "W=8")


def test_one_model(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("bench", model, *BRIEF, "--json", "times.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("net.onnx: median ")
    found = json.loads(Path("times.json").read_text())
    assert found["threads"] == 1
    assert found["inputs"] == {"x": [1, 3, 8, 8]}
    assert found["a"]["model"] == "net.onnx"
    assert found["a"]["runs"] >= 3
    assert found["a"]["median_ms"] > 0


def test_two_models(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("bench", model, model, *BRIEF, "--json", "times.json", "--threads", "2")
    assert done.code == 0
    found = json.loads(Path("times.json").read_text())
    assert list(found) == ["threads", "inputs", "a", "b", "ratio", "ratio_spread", "pairs"]
    assert found["pairs"] == found["a"]["runs"] == found["b"]["runs"]
    assert "B / A: " in done.out


def test_on_data(lpcc: Callable[..., Any], model: Path) -> None:
    np.savez("data.npz", x=np.ones((3, 3, 8, 8), np.float32))
    assert lpcc("bench", model, "--seconds", "0", "--data", "data.npz", "-q").out == ""


def test_inputs_that_do_not_fit_the_model(lpcc: Callable[..., Any], model: Path) -> None:
    assert lpcc("bench", model, "--dim", "C=3").code == 2


def test_a_model_that_cannot_run_is_named(lpcc: Callable[..., Any], model: Path) -> None:
    odd = onnx.load(model)
    odd.graph.node[0].domain = "acme"
    odd.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(odd, "odd.onnx")
    done = lpcc("bench", model, "odd.onnx")
    assert done.code == 3
    assert done.error.startswith("lpcc: error: odd.onnx: onnxruntime refuses the model: ")


def test_models_of_other_inputs_are_not_compared(lpcc: Callable[..., Any], model: Path) -> None:
    other = onnx.load(model)
    other.graph.input[0].name = other.graph.node[0].input[0] = "z"
    onnx.save(other, "other.onnx")
    done = lpcc("bench", model, "other.onnx", *BRIEF)
    assert done.code == 3
    assert "other.onnx: takes z, net.onnx takes x" in done.error
    other = onnx.load(model)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
    onnx.save(other, "seven.onnx")
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    onnx.save(other, "other.onnx")
    done = lpcc("bench", "other.onnx", "seven.onnx", "--seconds", "0", "--pairs", "3", "--dim", "W=8")
    assert done.code == 3
    assert "seven.onnx: takes x: float32[N, 3, 7, W], other.onnx takes x: float32[N, 3, 8, W]" in done.error

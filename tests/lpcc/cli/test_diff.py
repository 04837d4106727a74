from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc.testing.golden import read_model

SIZES = ("--dim", "H=16", "--dim", "W=16")


@pytest.fixture
def folded(lpcc: Callable[..., Any], model: Path) -> Path:
    assert lpcc("optimize", model, "-t", "arm-cortex-a72", "-p", "fold-bn", "-o", "folded.onnx").code == 0
    return Path("folded.onnx")


def test_the_same_model(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("diff", model, model, *SIZES)
    assert done.code == 0
    assert "structure: the same" in done.out
    assert "none" in done.out


def test_structure_and_numbers(lpcc: Callable[..., Any], model: Path, folded: Path) -> None:
    done = lpcc("diff", model, folded, *SIZES, "--json", "diff.json")
    assert done.code == 0
    assert "BatchNormalization 1 -> 0" in done.out
    assert "  - n" in done.out
    found = json.loads(Path("diff.json").read_text())
    assert found["structure"]["ops"] == {"BatchNormalization": [1, 0]}
    assert found["structure"]["sizes"]["nodes"] == [9, 8]
    (output,) = found["outputs"]
    assert output["name"] == "y"
    assert 0 < output["relative"] < 1e-4
    assert output["sqnr_db"] > 80


def test_on_data(lpcc: Callable[..., Any], model: Path, folded: Path) -> None:
    np.savez("data.npz", x=np.ones((3, 3, 8, 8), np.float32))
    assert lpcc("diff", model, folded, "--data", "data.npz", "-q").out == ""
    np.savez("data.npz", z=np.ones((3, 3, 8, 8), np.float32))
    assert lpcc("diff", model, folded, "--data", "data.npz").code == 3


def test_models_that_cannot_be_compared(lpcc: Callable[..., Any], model: Path) -> None:
    onnx.save(
        read_model('<ir_version: 9, opset_import: ["": 17]>\ng (float[2] a) => (float[2] b) { b = Relu(a) }'),
        "other.onnx",
    )
    done = lpcc("diff", model, "other.onnx")
    assert done.code == 0
    assert "input `x` float[N,3,H,W] is gone" in done.out
    assert "output `b` float[2] is new" in done.out
    assert "numbers: not compared: the models have no output in common" in done.out


def test_long_lists_are_cut(lpcc: Callable[..., Any], model: Path) -> None:
    nodes = "\n".join(f"t{i} = Relu(t{i - 1})" for i in range(1, 30))
    text = '<ir_version: 9, opset_import: ["": 17]>\ng (float[2] t0) => (float[2] t29) {' + nodes + "}"
    onnx.save(read_model(text), "long.onnx")
    assert "more (-v lists them)" in lpcc("diff", model, "long.onnx").out
    full = lpcc("diff", model, "long.onnx", "-v").out
    assert "more (-v" not in full
    assert "  + t17" in full


def test_numbers_of_another_processor(lpcc: Callable[..., Any], wide: Path) -> None:
    pipeline = "exact,quantize{ranges=minmax min-work=0}"
    made = lpcc("optimize", wide, "-t", "arm-cortex-a72", "-p", pipeline, "--calib", "x.npz", "-o", "int8.onnx")
    assert made.code == 0, made.err
    sqnr = {}
    for kernels in ("arm", "x86-novnni"):
        done = lpcc("diff", wide, "int8.onnx", "--data", "x.npz", "--emulate", kernels, "--json", "d.json")
        assert done.code == 0
        sqnr[kernels] = json.loads(Path("d.json").read_text())["outputs"][0]["sqnr_db"]
    assert 15 < sqnr["x86-novnni"] < sqnr["arm"] < 60
    assert lpcc("diff", wide, "int8.onnx", "--emulate", "amr").code == 2

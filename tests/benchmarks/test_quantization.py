"""The comparison with other tools: its judging and its failures on small models, and one real run with what is here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fashion_mnist"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/quantization.py`, imported as it is when it runs as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("quantization", "zoo", "peers", "detection", "peers.judging", "peers.tools"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("quantization")


def scaled(model: Path, result: Path, factor: float) -> Path:
    """The model with one of its weights multiplied."""
    changed = onnx.load(model)
    weight = max(changed.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(changed, result)
    return result


def test_files_are_judged_beside_the_float_model(script: ModuleType, tmp_path: Path) -> None:
    subject = script._subject(str(EXAMPLE), 4, 60)
    assert len(subject.calibration["image"]) == 4
    assert len(subject.labels) == 60
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    files = {
        "same": subject.model,
        "off": scaled(subject.model, tmp_path / "off.onnx", 1.01),
        "wrong": scaled(subject.model, tmp_path / "wrong.onnx", -3.0),
        "broken": tmp_path / "broken.onnx",
    }
    found = script.judge(subject, files, seconds=0.05)
    assert found["float"].score == found["same"].score > 85
    assert found["same"].agreement == 100
    assert found["same"].sqnr == np.inf
    assert 20 < found["off"].sqnr < 60
    assert found["wrong"].sqnr < 10
    assert found["wrong"].agreement < 90
    assert found["broken"].error
    assert found["float"].share == 1
    assert 0.3 < found["same"].share < 3
    made = {name: script.Made(path, 2.0, 3_000_000, None) for name, path in files.items()}
    rows = script._rows(subject, found, made)
    assert "| | same | " in rows[1]
    assert rows[1].endswith("| 2 | 3 |")
    assert "fails: " in rows[4]
    assert all(row.count("|") == 10 for row in rows)


def test_maps_of_choices_are_judged_by_their_axis(script: ModuleType) -> None:
    judged = importlib.import_module("peers.judging").Judged()
    expected = np.zeros((1, 2, 4, 4), np.float32)
    expected[:, 1, :2] = 1
    found = expected.copy()
    found[0, 0, 0, 0] = 2
    judged.add({"mask": expected}, {"mask": found}, None, {"mask": 1})
    assert judged.agreement == pytest.approx(100 * 15 / 16)
    judged.add({"mask": expected}, {"mask": expected}, None, {"mask": 1})
    assert judged.agreement == pytest.approx(100 * 31 / 32)
    assert np.isnan(judged.score)


def test_a_tool_that_fails_leaves_its_reason(script: ModuleType, tmp_path: Path) -> None:
    tools = importlib.import_module("peers.tools")
    program = tmp_path / "program.py"
    workshop = tools.Workshop(tmp_path / "cache", seconds=1.0, gigabytes=4.0)

    def made(source: str, *, reuse: bool = False) -> object:
        program.write_text(source)
        tool = tools.Tool("a tool", str(program), "twice", prepared=False)
        return workshop.made(tool, EXAMPLE / "model.onnx", {"x": np.ones(3)}, name="net", reuse=reuse)

    failed = made("raise ValueError('it is no good')")
    assert failed.error == "ValueError: it is no good"
    slow = made("while True: pass")
    assert slow.error == "not done after 1 s"
    greedy = made("import numpy; numpy.ones(2**40)")
    assert "MemoryError" in greedy.error
    written = made("import shutil, sys; model, _, result, variant = sys.argv[1:]; shutil.copy(model, result)")
    assert written.error is None
    assert written.path.read_bytes() == (EXAMPLE / "model.onnx").read_bytes()
    assert written.bytes > 1e6
    assert made("raise ValueError", reuse=True) == written
    assert made("raise ValueError").error == "ValueError"
    assert not written.path.exists()


@pytest.mark.slow
def test_lpcc_and_onnxruntime_on_the_example(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--images", "32", "--evaluation", "200", "--seconds", "0.2"]
    options += ["--pipeline", "exact,quantize{ranges=mse scheme=u8s8}"]
    which = ["--models", str(EXAMPLE), "--folder", str(tmp_path), "--peers", "onnxruntime"]
    monkeypatch.setattr(sys, "argv", ["quantization.py", *which, *options])
    script.main()
    table, against = capsys.readouterr().out.split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[1] for row in rows] == ["float", "lpcc", "onnxruntime min-max", "onnxruntime percentile"]
    for row in rows[1:]:
        assert float(row[3]) > 90
        assert float(row[4]) > 15
        assert int(row[5].split("/")[0]) > 0
        assert float(row[8]) > 30
    assert against.splitlines()[2].startswith("| fashion_mnist | ")

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import onnx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("embed")


def test_script(embed: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed.main() == 0
    out, err = capsys.readouterr()
    size, top1, speed, layers = out.splitlines()
    assert size.startswith("clothes.arm-cortex-a53.onnx: ")
    assert top1.startswith("top1: 92")
    assert "(predicted)" in speed
    assert layers.startswith("in int8: ")
    assert not layers.startswith("in int8: 0 ")
    assert "calibrate 256/256" in err
    operators = {node.op_type for node in onnx.load("clothes.arm-cortex-a53.onnx").graph.node}
    assert "QuantizeLinear" in operators


def test_refused_data_is_one_line(
    embed: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "read", lambda _: {"image": embed.np.zeros((0, 1, 28, 28), "float32")})
    assert embed.main() == 1
    assert capsys.readouterr().err.startswith("compiler: ")
    assert not Path("clothes.arm-cortex-a53.onnx").exists()

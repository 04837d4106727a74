from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lpcc.report import Figures

TARGET = ("-t", "arm-cortex-a72")


def test_a_table_and_totals(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("inspect", model, *TARGET, "--dim", "H=16", "--dim", "W=16", "--dim", "N=1")
    assert (done.code, done.err) == (0, "")
    head, *lines = done.out.splitlines()
    assert head.split() == ["layer", "op", "type", "output", "MACs", "params", "moved", "time", "energy", "bound"]
    assert any("1x8x16x16" in line and "55.3 k" in line for line in lines)  # 8 x 16 x 16 x 27
    assert "net.onnx on arm-cortex-a72" in lines
    assert any(line.startswith("peak of activations: ") for line in lines)
    assert "taken as" not in done.out


def test_json(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("inspect", model, *TARGET, "-q", "--json", "cost.json", "--dim", "H=16", "--dim", "x[3]=8")
    assert done.out == ""
    found = json.loads(Path("cost.json").read_text())
    assert list(found)[:4] == ["model", "target", "total", "layers"]
    assert list(found["total"]) == [field.name for field in fields(Figures)]
    assert found["total"]["macs"] == 16 * 8 * (8 * 27 + 8 * 72) + 80
    assert sum(layer["macs"] for layer in found["layers"]) == found["total"]["macs"]
    assert found["total"]["file_bytes"] == model.stat().st_size
    assert any("N" in note for note in found["notes"])


def test_assumed_sizes_are_said(lpcc: Callable[..., Any], model: Path) -> None:
    assert "dimension H of input x taken as 224" in lpcc("inspect", model, *TARGET).out


@pytest.mark.parametrize("name", ["batch", "x[1]", "x[4]"])
def test_a_size_for_no_open_dimension_is_refused(lpcc: Callable[..., Any], model: Path, name: str) -> None:
    done = lpcc("inspect", model, *TARGET, "--dim", f"{name}=3")
    assert done.code == 2
    assert name in done.error
    assert "H, N, W" in done.error


def test_a_network_that_does_not_fit_is_warned_about(lpcc: Callable[..., Any], model: Path) -> None:
    assert "warning: does not fit" in lpcc("inspect", model, "-t", "arm-cortex-m4").out

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import pytest

from lpcc.report import Figures
from lpcc.testing.golden import read_model

BRANCHES = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1,2,8,8] x) => (float[1,4,8,8] y)
<float[16,2,1,1] wide1, float[16,2,1,1] wide2, float[2,16,1,1] narrow1, float[2,16,1,1] narrow2>
{
    a = Conv(x, wide1)
    b = Conv(x, wide2)
    c = Conv(a, narrow1)
    d = Conv(b, narrow2)
    y = Concat<axis = 1>(c, d)
}
"""

TARGET = ("-t", "arm-cortex-a72")


def test_a_table_and_totals(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("inspect", model, *TARGET, "--dim", "H=16", "--dim", "W=16", "--dim", "N=1")
    assert (done.code, done.err) == (0, "")
    head, *lines = done.out.splitlines()
    columns = ["layer", "op", "type", "output", "MACs", "params", "moved", "time", "energy", "bound", "int8"]
    assert head.split() == columns
    assert any("1x8x16x16" in line and "55.3 k" in line for line in lines)  # 8 x 16 x 16 x 27
    assert "net.onnx on arm-cortex-a72" in lines
    assert any(line.startswith("peak of activations: ") and " at " in line for line in lines)
    assert any("█" in line for line in lines)
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


def test_whether_int8_pays(lpcc: Callable[..., Any], model: Path) -> None:
    sizes = ("--dim", "H=64", "--dim", "W=64")
    done = lpcc("inspect", model, "-t", "arm-cortex-a76", *sizes, "--json", "cost.json")
    int8 = json.loads(Path("cost.json").read_text())["int8"]
    assert int8["speedup"] == pytest.approx(int8["float_ms"] / int8["int8_ms"])
    gain = int8["speedup"]
    said = f"{gain:.2f} times faster" if gain >= 1 else f"{1 / gain:.2f} times slower"
    assert f"predicted: int8 is {said} here" in done.out
    assert int8["layers"]
    assert all(f"{gain:.1f}x" in done.out for gain in int8["layers"].values())


def test_no_verdict_without_integer_kernels(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("inspect", model, "-t", "eyeriss", "--json", "cost.json")
    assert json.loads(Path("cost.json").read_text())["int8"] is None
    assert "int8 is" not in done.out


def test_lines_fit_a_terminal(lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcc.cli.terminal.Terminal.width", 80)
    lines = lpcc("inspect", model, "-t", "arm-cortex-m4", "--dim", "H=256", "--dim", "W=256").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("warning: does not fit") for line in lines)


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


def test_memory_as_json(lpcc: Callable[..., Any], model: Path) -> None:
    lpcc("inspect", model, "-t", "arm-cortex-m7", "-q", "--json", "cost.json", "--dim", "H=16", "--dim", "W=16")
    memory = json.loads(Path("cost.json").read_text())["memory"]
    assert memory["peak_bytes"] == max(moment["bytes"] for moment in memory["series"]) <= memory["arena_bytes"]
    assert memory["least_peak_bytes"] <= memory["best_peak_bytes"] <= memory["peak_bytes"]
    assert sum(held["bytes"] for held in memory["peak_tensors"]) >= memory["peak_bytes"]
    assert memory["arena_bytes"] < memory["ram_bytes"]
    assert memory["flash_bytes"] > 4 * (8 * 27 + 8 * 72 + 80)


def test_a_better_order_and_what_it_gains(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(read_model(BRANCHES), tmp_path / "branches.onnx")
    out = lpcc("inspect", tmp_path / "branches.onnx", "-t", "arm-cortex-m7").out
    assert "note: another order of execution needs 41 % less: 5.00 KB in place of 8.50 KB (pass `schedule`)" in out


def test_by_how_much_it_does_not_fit(lpcc: Callable[..., Any], model: Path) -> None:
    out = lpcc("inspect", model, "-t", "arm-cortex-m4", "--dim", "H=1024", "--dim", "W=1024").out
    assert "KiB of SRAM of 640 KiB" in out
    assert "KiB too much; most at " in out


def test_channel_groups(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    onnx.save(read_model(BRANCHES), tmp_path / "branches.onnx")
    done = lpcc("inspect", tmp_path / "branches.onnx", *TARGET, "--groups", "--json", tmp_path / "groups.json")
    lines = done.out.splitlines()
    title = lines.index("channels that can only be removed together, after the exact passes")
    assert lines[title + 1].split() == ["group", "channels", "made", "by", "read", "by", "weights", "tensors", "state"]
    assert lines[title + 3].split() == ["2", "16", "a", "c", "2", "1", "free"]
    assert "32 channels in 2 groups can be removed" in lines
    assert lines[-1].startswith("group 5 stays: `y` is an output of the model")
    groups = json.loads((tmp_path / "groups.json").read_text())["groups"]
    assert [group["channels"] for group in groups] == [2, 16, 16, 2, 2]
    assert groups[1] == {
        "channels": 16,
        "pinned": None,
        "made_by": ["a"],
        "read_by": ["c"],
        "weights": [
            {"name": "wide1", "axis": 0, "places_per_channel": 1},
            {"name": "narrow1", "axis": 1, "places_per_channel": 1},
        ],
        "tensors": [{"name": "a", "axis": 1, "places_per_channel": 1}],
    }


def test_channel_groups_are_listed_when_asked_for(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("inspect", model, *TARGET, "--json", "plain.json")
    assert "removed together" not in done.out
    assert "groups" not in json.loads(Path("plain.json").read_text())

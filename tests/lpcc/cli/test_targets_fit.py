from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import load
from lpcc.target import Target
from lpcc.targets.fit.board import plain
from lpcc.testing.golden import read_model

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,8,SIDE,SIDE] x) => (float[1,8,SIDE,SIDE] y)
<float[8,8,3,3] w, float[8,1,3,3] d>
{
    c = Conv <pads = [1,1,1,1]> (x, w)
    s = Conv <pads = [1,1,1,1], group = 8> (c, d)
    t = Erf (s)
    y = Conv <pads = [1,1,1,1]> (t, w)
}
"""
SIDES = (8, 12, 16, 24, 32, 48)


def predicted(target: str, path: Path) -> float:
    graph = load(path)
    annotate(graph)
    return CostModel(Target.load(target)).estimate(graph).latency_ms


@pytest.fixture
def times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks that were measured on a board, half as fast as an arm-cortex-a53, which draws 2 W."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    lines = ["# measured by hand", "model,milliseconds,millijoules"]
    for side in SIDES:
        path = tmp_path / "nets" / f"{side}.onnx"
        onnx.save(read_model(NETWORK.replace("SIDE", str(side))), path)
        milliseconds = 2 * predicted("arm-cortex-a53", path)
        lines.append(f"nets/{side}.onnx,{milliseconds:.6f},{2 * milliseconds:.6f}")
    file = tmp_path / "times.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def edited(times: Path, row: int, text: str) -> Path:
    """The table with another line in place of a row."""
    lines = times.read_text().splitlines()
    lines[2 + row] = text
    times.write_text("\n".join(lines) + "\n")
    return times


def test_adapts_a_target(lpcc: Callable[..., Any], times: Path) -> None:
    done = lpcc("targets", "fit", "arm-cortex-a53", "--measurements", times, "-o", "board.toml", "--json", "out.json")
    assert (done.code, done.err) == (0, "")
    assert "each network predicted by a fit to the others" in done.out
    for side in SIDES:
        path = Path(f"nets/{side}.onnx")
        assert predicted("./board.toml", path) == pytest.approx(2 * predicted("arm-cortex-a53", path), rel=0.05)
    board = Target.load("board.toml")
    assert board.name == "board"
    assert board.energy.active_watts == pytest.approx(2.0, rel=1e-3)
    assert board.quality.networks == len(SIDES)
    assert "times.csv" in board.sources["physics.scale"]
    numbers = json.loads(Path("out.json").read_text())
    assert numbers["mean_error_after"] < 0.05 < 0.45 < numbers["mean_error_before"]
    assert len(numbers["networks"]) == len(SIDES)


def test_adapts_a_file_which_stays_as_it_is(lpcc: Callable[..., Any], times: Path) -> None:
    mine = Path("mine.toml")
    mine.write_text('extends = "arm-cortex-a53"\nname = "mine"\ndescription = "a board"\n')
    done = lpcc("targets", "fit", mine, "--measurements", times)
    assert done.code == 0
    assert 'name = "mine"' in Path("mine.fitted.toml").read_text()
    assert 'extends = "mine.toml"' in Path("mine.fitted.toml").read_text()
    assert Target.load("mine.fitted.toml").physics.scale > 1.2
    assert mine.read_text().startswith('extends = "arm-cortex-a53"')
    done = lpcc("targets", "fit", mine, "--measurements", times, "-o", mine)
    assert "is the target to adapt" in done.error


@pytest.mark.parametrize(
    ("row", "text", "says"),
    [
        (0, "nets/8.onnx,-1", "times.csv:3: milliseconds = `-1` is not a number above 0"),
        (0, "nets/8.onnx,fast", "times.csv:3: milliseconds = `fast` is not a number above 0"),
        (1, "nets/12.onnx", "times.csv:4: milliseconds = `` is not a number above 0"),
        (1, "nets/12.onnx,1,nan", "times.csv:4: millijoules = `nan` is not a number above 0"),
        (2, ",1", "times.csv:5: names no model"),
        (2, "nets/missing.onnx,1", "nets/missing.onnx"),
        (0, "nets/8.onnx,90", "where the other networks suggest"),
        (0, "nets/12.onnx,1", "was measured in line 3 already"),
        (1, "nets/12.onnx,1,2,3", "times.csv:4: 4 cells in 3 columns; a decimal comma, perhaps?"),
        (5, "# gone", ""),
    ],
)
def test_nonsense_is_refused_in_one_line(lpcc: Callable[..., Any], times: Path, row: int, text: str, says: str) -> None:
    done = lpcc("targets", "fit", "arm-cortex-a53", "--measurements", edited(times, row, text))
    if not says:
        assert done.code == 0  # five are enough
        return
    assert done.code in (2, 3)
    assert says in done.error
    assert not Path("arm-cortex-a53.fitted.toml").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("file,milliseconds\n", "column `model` is missing"),
        ("model,seconds\n", "column `milliseconds` is missing"),
        ("model,milliseconds\nnets/8.onnx,1\n", "1 networks are too few; at least 5"),
        (None, "cannot read the measurements"),
    ],
)
def test_other_files_are_refused(lpcc: Callable[..., Any], times: Path, text: str | None, says: str) -> None:
    if text is None:
        times.unlink()
    else:
        times.write_text(text)
    done = lpcc("targets", "fit", "arm-cortex-a53", "--measurements", times)
    assert done.code == 2
    assert says in done.error


def test_another_unit_is_recognised(lpcc: Callable[..., Any], times: Path) -> None:
    rows = [line.split(",") for line in times.read_text().splitlines()[2:]]
    text = "".join(f"{model},{float(value) * 1e3}\n" for model, value, _ in rows)
    times.write_text("model,milliseconds\n" + text)
    done = lpcc("targets", "fit", "arm-cortex-a53", "--measurements", times)
    assert done.code == 2
    assert "are they milliseconds" in done.error


def test_arrays_have_nothing_to_adapt(lpcc: Callable[..., Any], times: Path) -> None:
    error = lpcc("targets", "fit", "eyeriss", "--measurements", times).error
    assert "target `eyeriss` is of kind `array`, whose own model prices it: nothing to adapt" in error


@pytest.mark.parametrize(
    ("value", "text"), [(1e3, "1000"), (15931.2, "15931"), (1.236, "1.24"), (8.14e-5, "0.0000814")]
)
def test_numbers_of_messages_are_no_powers_of_ten(value: float, text: str) -> None:
    assert plain(value) == text


def test_this_machine_is_measured_instead(lpcc: Callable[..., Any], times: Path) -> None:
    assert "targets measure" in lpcc("targets", "fit", "host", "--measurements", times).error


def test_the_sizes_are_of_the_first_column(lpcc: Callable[..., Any], times: Path) -> None:
    """Rows in any order, columns in any order."""
    rows = [line.split(",") for line in times.read_text().splitlines()[2:]]
    order = np.random.default_rng(0).permutation(len(rows))
    text = "".join(f"{rows[i][1]}, {rows[i][0]}\n" for i in order)
    times.write_text("milliseconds, model\n" + text)
    assert lpcc("targets", "fit", "arm-cortex-a53", "--measurements", times).code == 0


def test_writes_nothing_where_that_is_no_improvement(lpcc: Callable[..., Any], times: Path) -> None:
    """Times of which each tells the opposite of the one before it."""
    header, rows = times.read_text().splitlines()[:2], times.read_text().splitlines()[2:]
    models = [row.split(",")[0] for row in rows]
    ms = [predicted("arm-cortex-a53", Path(model)) * (3, 0.4)[place % 2] for place, model in enumerate(models)]
    lines = [f"{model},{value:.6f},1" for model, value in zip(models, ms, strict=True)]
    times.write_text("\n".join([*header, *lines]) + "\n")
    done = lpcc("targets", "fit", "arm-cortex-a53", "--measurements", times, "-o", "board.toml", "--json", "out.json")
    assert done.code == 0
    assert "nothing is written" in done.out
    assert not Path("board.toml").exists()
    assert json.loads(Path("out.json").read_text())["target"] is None

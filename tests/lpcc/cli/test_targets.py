from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lpcc.target import Target, numbers_of


def test_lists_all(lpcc: Callable[..., Any]) -> None:
    done = lpcc("targets")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["target", *Target.names()]
    assert lpcc("targets", "list").out == done.out


def test_a_name_is_no_command(lpcc: Callable[..., Any]) -> None:
    done = lpcc("targets", "arm-cortex-a53")
    assert done.code == 2
    assert "see `lpcc targets --help`" in done.error


def test_all_numbers_with_their_sources(lpcc: Callable[..., Any]) -> None:
    done = lpcc("targets", "show", "arm-cortex-a53")
    target = Target.load("arm-cortex-a53")
    flowing = " ".join(done.out.split())
    assert all(source in flowing for source in target.sources.values() if source)
    keys = {line.split()[0] for line in done.out.splitlines() if line}
    assert set(target.sources) - {key for key in target.sources if key.startswith("quality")} <= keys
    assert "compute.float32.efficiency.depthwise" in keys
    assert list(numbers_of({"a": {"b": 1}})) == ["a.b"]


def test_a_file(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text('extends = "arm-cortex-a53"\nname = "my-board"\ndescription = "mine"\n')
    assert lpcc("targets", "show", board).out.startswith("my-board\nmine\n")


def test_unknown(lpcc: Callable[..., Any]) -> None:
    done = lpcc("targets", "show", "arm-cortex-m5")
    assert done.code == 2
    assert "did you mean `arm-cortex-m" in done.error
    assert len(done.error) < 200
    assert "did you mean `raspberry-pi-4`" in lpcc("targets", "show", "RASPBERRY-PI-4").error


def test_what_is_no_target_file(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\x89\xff\x00")
    assert "binary.toml: is no text; a target file is TOML" in lpcc("targets", "show", tmp_path / "binary.toml").error
    assert lpcc("targets", "show", tmp_path).error.endswith(": cannot read the target file: Is a directory")


def test_a_kernel_table_without_rows(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("kernel,format,quantity,term,coefficient\n")
    board = tmp_path / "board.toml"
    board.write_text('extends = "arm-cortex-a53"\nname = "b"\n[tables]\nkernels = "empty.csv"\n')
    done = lpcc("targets", "show", board)
    assert done.code == 2
    assert "empty.csv: holds no rows; expected the columns kernel,format" in done.error

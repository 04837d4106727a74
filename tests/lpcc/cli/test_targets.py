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
    assert "arm-cortex-m4" in done.error

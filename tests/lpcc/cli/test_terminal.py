from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from lpcc.cli import terminal
from lpcc.cli.terminal import Terminal
from lpcc.errors import UsageError


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_screen(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """A terminal as stdout and stderr, with colours. For the body of a test: pytest sets streams anew before that."""
    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_plain_where_it_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    Terminal().show([("a title [bold]", "bold red"), "x" * 200])
    assert capsys.readouterr().out == "a title [bold]\n" + "x" * 200 + "\n"
    assert Terminal().width == 120


def test_width_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    open_screen(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    assert Terminal().width == 80
    monkeypatch.setenv("COLUMNS", "5")
    assert Terminal().width == 40


def test_styles_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    Terminal().show([("result", "bold red")])
    assert "\x1b[1;31mresult" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    Terminal().show([("again", "red")])
    assert "\x1b[31magain" not in screen.getvalue()


def test_a_bar_only_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    with Terminal().progress() as step:
        step("short work", 1, 2)
    assert "short work" not in screen.getvalue()
    monkeypatch.setattr(terminal, "_PATIENCE", -1.0)
    with Terminal().progress() as step:
        step("long work", 1, 2)
        step("unknown length", 1, 0)
    assert "long work" in screen.getvalue()


def test_what_stands_behind_a_colon_changes_in_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    monkeypatch.setattr(terminal, "_PATIENCE", -1.0)
    bars: list[str] = []
    add = Progress.add_task

    def counted(self: Progress, description: str, **options: object) -> object:
        bars.append(description)
        return add(self, description, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Progress, "add_task", counted)
    with Terminal().progress() as step:
        step("agreement of the original", 0, 0)
        step("training: epoch 1/2, loss 0.5", 1, 4)
        step("training: epoch 2/2, loss 0.3", 3, 4)
    assert bars == ["agreement of the original", "training: epoch 1/2, loss 0.5"]
    assert "loss 0.3" in screen.getvalue()


def test_no_bar_where_quiet_or_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    monkeypatch.setattr(terminal, "_PATIENCE", -1.0)
    with Terminal(quiet=True).progress() as step:
        step("work", 1, 2)
    assert screen.getvalue() == ""
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with Terminal().progress() as step:
        step("work", 1, 2)
    assert plain.getvalue() == ""


def test_json_goes_to_a_file_or_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    Terminal(json=path).write_json({"a": 1.5})
    assert json.loads(path.read_text()) == {"a": 1.5}
    out = Terminal(json=Path("-"))
    out.show(["a line"])
    out.write_json({"a": 1.5})
    assert json.loads(capsys.readouterr().out) == {"a": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        out.write_json({"a": math.nan})


def test_files_are_checked_before_work(tmp_path: Path) -> None:
    Terminal(json=tmp_path / "new.json").check_json(tmp_path / "model.onnx")
    for path in (tmp_path, tmp_path / "no" / "such.json"):
        with pytest.raises(UsageError, match="cannot be written"):
            Terminal(json=path).check_json()
    with pytest.raises(UsageError, match="another file"):
        Terminal(json=tmp_path / "model.onnx").check_json(tmp_path / "model.onnx")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match="no permission"):
        terminal.check_writable(tmp_path / "x.onnx")

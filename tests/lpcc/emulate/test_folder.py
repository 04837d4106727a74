from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lpcc.emulate import Emulator, Folder
from lpcc.emulate.folder import qemu, qemu_version
from lpcc.errors import UsageError


def test_the_variable_comes_before_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LPCC_EMULATOR", raising=False)
    assert Folder.default().path == tmp_path / "lpcc" / "arm64"
    monkeypatch.setenv("LPCC_EMULATOR", "elsewhere")
    assert Folder.default().path == Path.cwd() / "elsewhere"


def test_what_a_ready_folder_holds(ready: Folder) -> None:
    assert ready.ready
    assert ready.onnxruntime == "1.27.0"
    assert ready.checked_python().name == "python3.11"


def test_an_empty_folder_is_told_how_to_be_filled(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lpcc emulator install"):
        Folder(tmp_path).checked_python()


def test_no_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ready: Folder) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt-get install qemu-user"):
        Emulator.find(ready.path)


def test_qemu_in_the_path(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Path], tmp_path: Path) -> None:
    program = stand_in("pass")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu() == program
    assert qemu_version(program) == (7, 2)

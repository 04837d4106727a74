from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def nothing_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LPCC_EMULATOR", str(tmp_path / "arm64"))


@pytest.mark.parametrize("command", [("emulator",), ("emulator", "status")])
def test_status_says_what_is_missing(
    lpcc: Callable[..., Any], command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = lpcc(*command)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith(f"runtime: none in {tmp_path}/arm64: `lpcc emulator install`")
    assert any(line.startswith("qemu-aarch64: qemu-aarch64 is not installed: `apt-get install") for line in lines)
    assert any(line.startswith("  cortex-a72: ") for line in lines)


def test_install_without_tools(lpcc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = lpcc("emulator", "install")
    assert done.code == 2
    assert "apt-get install qemu-user" in done.error
    assert not (tmp_path / "arm64").exists()


def test_install_where_it_is_already(lpcc: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "arm64"
    (folder / "root/usr/bin").mkdir(parents=True)
    (folder / "root/usr/bin/python3.11").touch()
    (folder / "site/onnxruntime-1.27.0.dist-info").mkdir(parents=True)
    done = lpcc("emulator", "install")
    assert done.code == 0
    assert done.out.startswith(f"{folder}: onnxruntime 1.27.0 for arm64 was there already\n")

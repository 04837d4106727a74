"""The set-up, with stand-ins for the clients of Debian and PyPI: nothing is fetched."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import lpcc.emulate.install as module
from lpcc.emulate import Folder
from lpcc.emulate.install import ONNXRUNTIME, install, tools
from lpcc.errors import UsageError

APT = """#!/bin/sh
case "$*" in
*download-only*)
    for word in "$@"; do
        case "$word" in Dir::Cache=*) touch "${word#Dir::Cache=}/archives/one.deb" ;; esac
    done ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin" && touch "$3/usr/bin/python3.11"
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_in: Callable[..., Path]) -> Path:
    """A folder with all programs that the set-up calls, and nothing else to find."""
    folder = stand_in("pass").parent
    program(folder / "apt-get", APT)
    program(folder / "dpkg-deb", DPKG)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    run = subprocess.run

    def no_pip(command: Sequence[str], **options: Any) -> Any:
        if list(command[:3]) != [sys.executable, "-m", "pip"]:
            return run(command, **options)
        wheels = Path(command[command.index("--dest") + 1])
        wheels.mkdir()
        assert f"onnxruntime=={ONNXRUNTIME}" in command
        assert command[command.index("--python-version") + 1] == "3.11"
        with zipfile.ZipFile(wheels / "onnxruntime.whl", "w") as archive:
            archive.writestr(f"onnxruntime-{ONNXRUNTIME}.dist-info/METADATA", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", no_pip)
    return folder


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_whole(clients: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new" / "arm64")
    steps: list[str] = []
    assert install(folder, lambda what, _done, _total: steps.append(what))
    assert folder.ready
    assert (folder.path / "packages.txt").read_text() == "one\n"
    assert left(folder.path.parent) == ["arm64"]
    assert "trying it" in steps


def test_once_is_enough(clients: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "arm64")
    assert install(folder, quiet)
    program(clients / "apt-get", "#!/bin/sh\nexit 1\n")
    assert not install(folder, quiet)


def test_another_version_is_replaced(clients: Path, ready: Folder) -> None:
    (ready.site / "onnxruntime-1.27.0.dist-info").rename(ready.site / "onnxruntime-1.20.0.dist-info")
    assert install(ready, quiet)
    assert ready.onnxruntime == ONNXRUNTIME


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("apt-get", "#!/bin/sh\necho 'E: Unable to locate package python3-minimal' >&2\nexit 100\n", "apt-get"),
        ("dpkg-deb", "#!/bin/sh\necho 'dpkg-deb: error: no space left' >&2\nexit 2\n", "no space left"),
        ("qemu-aarch64", "#!/bin/sh\necho 'Exec format error' >&2\nexit 1\n", "does not start"),
    ],
)
def test_what_fails_leaves_nothing(clients: Path, tmp_path: Path, name: str, text: str, said: str) -> None:
    program(clients / name, text)
    parent = tmp_path / "new"
    with pytest.raises(UsageError, match=said) as error:
        install(Folder(parent / "arm64"), quiet)
    assert "\n" not in str(error.value)
    assert left(parent) == []


def test_a_folder_of_something_else_is_left_alone(clients: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds no arm64 runtime"):
        install(Folder(tmp_path / "mine"), quiet)
    assert left(tmp_path / "mine") == ["thesis.tex"]


def test_missing_tools_are_named_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert [tool.name for tool in tools() if not tool.present][:3] == ["qemu-aarch64", "apt-get", "dpkg-deb"]
    with pytest.raises(UsageError) as error:
        install(Folder(tmp_path / "arm64"), quiet)
    assert "apt-get install qemu-user" in str(error.value)
    assert "dpkg-deb is missing" in str(error.value)
    assert "compiler" not in str(error.value)

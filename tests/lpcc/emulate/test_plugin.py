from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lpcc.emulate.plugin import compiler, plugin
from lpcc.errors import UsageError


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_is_compiled_once(stand_in: Callable[..., Path]) -> None:
    qemu = stand_in("pass")
    path = plugin(qemu)
    made = path.stat().st_mtime_ns
    assert plugin(qemu) == path
    assert path.stat().st_mtime_ns == made
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Path]) -> None:
    qemu = stand_in("pass")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UsageError, match="apt-get install gcc"):
        plugin(qemu)


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, stand_in: Callable[..., Path], tmp_path: Path) -> None:
    qemu = stand_in("pass")
    cc = tmp_path / "cc"
    cc.write_text("#!/bin/sh\necho 'stdint.h: not found' >&2\nexit 1\n")
    cc.chmod(0o755)
    monkeypatch.setenv("CC", str(cc))
    with pytest.raises(UsageError, match=r"cannot compile the counting plugin: stdint.h: not found"):
        plugin(qemu)
    assert not list((tmp_path / "cache" / "lpcc").iterdir())


@pytest.mark.parametrize(("version", "counts"), [("4.1.0", False), ("9.0.2", False), ("9.1.0", True), ("10.0.2", True)])
@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_versions_of_qemu(tmp_path: Path, version: str, counts: bool) -> None:
    qemu = tmp_path / "qemu-aarch64"
    qemu.write_text(f"#!/bin/sh\necho qemu-aarch64 version {version}\n")
    qemu.chmod(0o755)
    if counts:
        assert plugin(qemu).name.endswith("-3.so")
    else:
        with pytest.raises(UsageError, match="cannot count instructions"):
            plugin(qemu)

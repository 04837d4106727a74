from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lpcc.errors import BudgetError, DataError, LpccError, ModelError, PassError, UsageError


def _raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(_path: object) -> None:
        raise error

    monkeypatch.setattr("lpcc.graph.load", load)


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (ModelError, 3), (DataError, 3), (BudgetError, 4), (MemoryError, 3)]
)
def test_errors_are_one_line_and_a_code(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], code: int
) -> None:
    _raises(monkeypatch, kind("what is wrong\nand where"))
    done = lpcc("print", model)
    assert done.code == code
    assert done.error.startswith("lpcc: error: ")
    assert done.error.endswith("what is wrong and where")


def test_a_full_disk_is_no_bug_of_ours(lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _raises(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    done = lpcc("print", model)
    assert done.code == 2
    assert done.error == "lpcc: error: the output cannot be written: No space left on device"


def test_a_name_that_is_too_long_is_no_bug_of_ours(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("optimize", model, "-p", "exact", "-o", "a" * 250 + ".onnx")
    assert done.code == 2
    assert done.error.endswith("File name too long")


@pytest.mark.parametrize("error", [RuntimeError("it broke"), PassError("it broke"), LpccError("it broke")])
def test_a_bug_leaves_a_reproducer(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _raises(monkeypatch, error)
    done = lpcc("print", model)
    assert done.code == 1
    assert "a bug of ours" in done.error
    assert "it broke" in done.error
    (folder,) = Path().glob("lpcc-reproducer-*")
    assert str(folder) in done.error
    assert (folder / "command.txt").read_text() == "lpcc print net.onnx\n"
    assert "it broke" in (folder / "error.txt").read_text()
    assert "onnxruntime" in (folder / "versions.txt").read_text()
    assert (folder / "net.onnx").read_bytes() == model.read_bytes()


def test_a_hook_s_reproducer_is_named_and_no_second_one_made(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = ValueError("inner")
    cause.add_note("reproducer saved in /some/where")
    error = PassError("pass `x` crashed")
    error.__cause__ = cause
    _raises(monkeypatch, error)
    assert "reproducer saved in /some/where" in lpcc("print", model).error
    assert not list(Path().glob("lpcc-reproducer-*"))


def test_tracebacks_of_bugs_only_where_asked_for(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _raises(monkeypatch, RuntimeError("it broke"))
    assert "Traceback" not in lpcc("diff", model, model).err
    assert "Traceback" in lpcc("diff", model, model, "-v").err
    monkeypatch.setenv("LPCC_DEBUG", "1")
    assert "Traceback" in lpcc("diff", model, model).err
    _raises(monkeypatch, ModelError("refused"))
    assert "Traceback" not in lpcc("diff", model, model, "-v").err


def test_a_folder_that_cannot_be_written_is_passed_over(
    lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tempfile

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    made = tempfile.mkdtemp

    def refuse_here(prefix: str, dir: Path) -> str:  # noqa: A002
        if dir == tmp_path:
            raise PermissionError("read-only")
        return made(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse_here)
    _raises(monkeypatch, RuntimeError("it broke"))
    assert str(elsewhere) in lpcc("print", model).error

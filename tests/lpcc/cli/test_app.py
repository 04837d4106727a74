from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lpcc
from lpcc.cli import app

COMMANDS = ("optimize", "inspect", "print", "diff", "bench", "passes", "targets", "sensitivity", "bisect", "emulator")
ROOT = str(Path(lpcc.__file__).parents[1])
BOUND = 0.8
"""CPU seconds; docs/cli.md promises 0.4, the rest is for a busy machine."""


def program(*arguments: str, code: str = "from lpcc.cli import main; main()", **options: Any) -> Any:
    env = os.environ | {"PYTHONPATH": ROOT, "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env, check=False, **options
    )


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = "import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules)));"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = program("--help", code=heavy + "from lpcc.cli import main; main()")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < BOUND
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "rich", "networkx", "torch", "PIL"}


def test_help_lists_every_command(lpcc: Callable[..., Any]) -> None:
    done = lpcc("--help")
    assert done.code == 0
    assert all(f"  {command} " in done.out for command in COMMANDS)
    assert "..." not in done.out.replace("[ARGS]...", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(lpcc: Callable[..., Any], command: str) -> None:
    done = lpcc(command, "-h")
    assert done.code == 0
    assert done.err == ""
    assert f"Usage: lpcc {command}" in done.out


@pytest.mark.skipif(not (Path(ROOT) / "docs").is_dir(), reason="the documentation is not installed")
def test_the_page_on_the_command_line_is_complete() -> None:
    page = (Path(ROOT) / "docs" / "cli.md").read_text()
    assert all(f"| `{command} " in page for command in COMMANDS)
    own = {"--target", "--pipeline", "--calib", "--eval", "--preprocess", "--metric", "--max-drop", "--json", "--seed"}
    for option in own | {"--min-agreement", "--min-sqnr", "--dry-run", "--force", "--verify", "--dump-dir", "--dim"}:
        assert f"{option}`" in page or f"{option} " in page


def test_version(lpcc: Callable[..., Any]) -> None:
    from lpcc import __version__

    assert lpcc("--version").out == f"lpcc {__version__}\n"


def test_no_command_is_wrong_usage_and_shows_the_help(lpcc: Callable[..., Any]) -> None:
    done = lpcc()
    assert done.code == 2
    assert done.out == ""
    assert "Usage: lpcc" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["optimise"], "optimi"),
        (["--frobnicate"], "--frobnicate"),
        (["inspect"], "MODEL"),
        (["inspect", "a.onnx", "--pipelines", "x"], "--pipelines"),
        (["bench", "a.onnx", "--threads", "0"], "--threads"),
        (["bench", "a.onnx", "--seed", "one"], "--seed"),
        (["optimize", "a.onnx", "--max-drop", "-1"], "--max-drop"),
        (["optimize", "a.onnx", "--max-drop", "nan"], "--max-drop"),
        (["optimize", "a.onnx", "--min-agreement", "101"], "--min-agreement"),
        (["inspect", "a.onnx", "--dim", "batch"], "--dim batch"),
        (["inspect", "a.onnx", "--dim", "batch=0"], "--dim batch=0"),
        (["inspect", "a.onnx", "--dim", "N=1", "--dim", "N=2"], "given twice"),
    ],
)
def test_wrong_usage_is_one_line(lpcc: Callable[..., Any], arguments: list[str], says: str) -> None:
    done = lpcc(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.error.startswith("lpcc: error: ")
    assert says in done.error


def test_an_interrupt_is_one_line(lpcc: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lpcc.graph.load", interrupt)
    done = lpcc("print", model)
    assert (done.code, done.error) == (130, "lpcc: interrupted")


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    script = "from lpcc.cli import main; main()"
    command = f"{sys.executable} -c '{script}' targets show arm-cortex-a53 | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}, check=True
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 where all was written before the reader left


def test_python_m(model: Path) -> None:
    done = program(
        code="import runpy, sys; sys.argv = ['lpcc', '--version']; runpy.run_module('lpcc', run_name='__main__')"
    )
    assert done.stdout.startswith("lpcc ")


def test_errors_leave_the_process_with_their_code(model: Path) -> None:
    done = program("print", "missing.onnx")
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["lpcc: error: missing.onnx: cannot be read: No such file or directory"]
    assert done.stdout == ""


def test_run_gives_the_code_instead_of_leaving(model: Path) -> None:
    assert app.run(["print", "missing.onnx"]) == 3

"""What README.md and docs/ say to type works, and prints what they say.

Run as they stand: every ``lpcc`` command and every piece of Python, in a folder with the example's model and data
under the names that the pages use. Not run: ``pip install`` and ``make``, which download or take minutes. Of those it
is checked that they name what there is; test_packaging.py installs the wheel, and the command of ``make demo`` is run.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from lpcc import Pipeline
from lpcc.cli.app import run
from lpcc.passes.factorize import Factorize
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.prune import PruneChannels, Trim
from lpcc.passes.prune.criteria import CRITERIA
from lpcc.testing import parse_case
from lpcc.train.recipe import Recipe

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fashion_mnist"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> Iterator[list[str]]:
    """The shell commands of a page, split into words, comments left out."""
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def trains(arguments: list[str]) -> bool:
    """Whether a command needs the training extra."""
    return arguments[0] == "retrain" or any("distill" in argument for argument in arguments)


def in_general(report: str) -> list[str]:
    """The lines of a report without what may differ from run to run or machine to machine: digits of numbers."""
    return [re.sub(r"-?\d[\d.]*", "N", " ".join(line.split())) for line in report.splitlines() if line.strip()]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the pages take for granted."""
    shutil.copy(EXAMPLE / "model.onnx", tmp_path / "net.onnx")
    for name in ("calib.npz", "eval.npz", "preprocess.toml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    (board,) = blocks("README.md", "toml")
    (tmp_path / "my-board.toml").write_text(board)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(block: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Run a piece of Python as a module of its own; the result is what it defines."""
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look their annotations up
    exec(compile(block, "page", "exec"), module.__dict__)
    return module.__dict__


def test_commands(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for program, *arguments in commands("README.md"):
        if program == "lpcc" and not (trains(arguments) and find_spec("torch") is None):
            assert run(arguments) == 0, f"lpcc {shlex.join(arguments)}: {capsys.readouterr().err}"
            ran += 1
        else:
            assert program in ("lpcc", "make", "pip")
    assert ran >= 10
    assert (workspace / "net.arm-cortex-a.onnx").exists()
    assert (workspace / "net.my-board.onnx").exists()


def test_installs(workspace: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text()
    assert ["pip", "install", "."] in list(commands("README.md"))
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", text)) <= set(extras)


def test_make_targets_exist(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:^ *|`)make ([a-z-]+)", (ROOT / page).read_text(), flags=re.MULTILINE):
            planned = subprocess.run(
                ["make", "--dry-run", target, f"PYTHON={sys.executable}"],
                cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            known = planned.returncode == 0 or "pyproject.toml" in planned.stderr  # which is not in this folder
            assert known, f"{page}: make {target}: {planned.stderr}"


def test_demo_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "fashion_mnist", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["make", "--dry-run", "demo", f"PYTHON={sys.executable}"]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    *_, recipe = re.findall(r"^\.venv/bin/lpcc ((?:.*\\\n)*.*)", planned, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert run(shlex.split(recipe.replace("\\\n", " "))) == 0
    shown = next(block for block in blocks("README.md", "text") if "demo/model.int8.onnx" in block)
    before, after = shown.split("...\n")
    printed = in_general(capsys.readouterr().out)
    assert printed[: len(in_general(before))] == in_general(before)
    assert printed[-len(in_general(after)) :] == in_general(after)


@pytest.mark.skipif(find_spec("torch") is None, reason="the training extra is not installed")
def test_training(workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = [arguments for program, *arguments in commands("docs/retraining.md") if program == "lpcc"]
    for arguments in ran:
        assert run(arguments) == 0, f"lpcc {shlex.join(arguments)}: {capsys.readouterr().err}"
    assert len(ran) >= 3
    whole, loop = blocks("docs/retraining.md", "python")
    execute(whole, monkeypatch)
    (workspace / "mine.py").write_text(loop)
    student = ["net.int4.onnx", "--teacher", "net.onnx", "--train", "calib.npz", "--preprocess", "preprocess.toml"]
    assert run(["retrain", *student, "--trainer", "mine:train", "--epochs", "1", "-o", "own.onnx"]) == 0
    assert (workspace / "own.onnx").exists()


def test_pruning(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = [arguments for program, *arguments in commands("docs/pruning.md") if program == "lpcc"]
    for arguments in ran:
        assert run(arguments) == 0, f"lpcc {shlex.join(arguments)}: {capsys.readouterr().err}"
    assert len(ran) >= 3


def test_factorisation(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = [arguments for program, *arguments in commands("docs/factorization.md") if program == "lpcc"]
    for arguments in ran:
        if not (trains(arguments) and find_spec("torch") is None):
            assert run(arguments) == 0, f"lpcc {shlex.join(arguments)}: {capsys.readouterr().err}"
    assert len(ran) >= 4
    assert (workspace / "smaller.onnx").exists()


def test_every_option_of_factorisation_is_on_the_page() -> None:
    page = (ROOT / "docs" / "factorization.md").read_text()
    for option in fields(Factorize):
        assert re.search(rf"[`{{ ]{option.name.replace('_', '-')}[`=]", page), option.name
    for method in METHODS:
        assert f"| `{method}` |" in page


def test_every_option_of_pruning_is_on_the_page() -> None:
    page = (ROOT / "docs" / "pruning.md").read_text()
    for option in (*fields(PruneChannels), *fields(Trim)):
        assert re.search(rf"[`{{ ]{option.name}[`=]", page), option.name
    for criterion in CRITERIA:
        assert f"`{criterion.name}`" in page


def test_every_option_of_training_is_on_the_page() -> None:
    page = (ROOT / "docs" / "retraining.md").read_text()
    for option in fields(Recipe):
        assert f"`{option.name.replace('_', '-')}`" in page


@pytest.mark.parametrize("page", ["README.md", "docs/library.md", "docs/writing-a-pass.md"])
def test_python(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [block for block in blocks(page, "python") if "import " in block]
    assert found
    for block in found:
        execute(block, monkeypatch)


def test_pass_of_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    names = execute(blocks("docs/writing-a-pass.md", "python")[0], monkeypatch)
    text = "drop-clip{above=8.0 skip=head}"
    assert str(Pipeline.parse(text, [names["DropClip"]])) == text  # type: ignore[list-item]


def test_golden_case_of_the_page_is_one() -> None:
    (case,) = blocks("docs/writing-a-pass.md", "text")
    kept = (ROOT / "examples" / "golden" / "split-max-pool" / "small.txt").read_text()
    assert parse_case(kept).before == parse_case(case).before


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index

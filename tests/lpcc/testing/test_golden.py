"""The golden checks fail when they must: an edge, an attribute, a count, a number that is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from lpcc import edit
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass
from lpcc.testing import GoldenError, check_golden, golden_cases, parse_case
from lpcc.testing.golden import read_model

CASE = """\
# Relus go, the second of two at once.
pipeline: drop-relu{times=1}
dims: N=2
--- before
<ir_version: 8, opset_import: ["": 17]>
g (float[N,2,4,4] x) => (float[N,2,2,2] y)
<float[2,2,3,3] w>
{
    c = Conv<pads = [0, 0, 0, 0]>(x, w)
    a = Relu(c)
    b = Relu(a)
    s = Sub(c, a)
    p = Sub(b, s)
    y = Relu(p)
}
"""


@dataclass(frozen=True)
class DropRelu(LocalPass):
    """Drops a Relu that reads another one: relu(relu(x)) = relu(x)."""

    name: ClassVar[str] = "drop-relu"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    times: int = 0
    scale: float = 1.0

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) == "Conv" and self.scale != 1.0:
                    weight = node.inputs[1]
                    e.replace_input(node, 1, e.constant(weight.name, weight.values * np.float32(self.scale)))
                    changes.done(node, "weights scaled")
                if edit.op(node) != "Relu":
                    continue
                maker = e.producer(node.inputs[0])
                if maker is not None and edit.op(maker) == "Relu":
                    changes.done(node, "Relu of a Relu dropped")  # before the node loses its outputs, which name it
                    e.bypass(node)
                else:
                    changes.refuse(node, "it reads no Relu")


def check(path: Path, *, update: bool = False) -> None:
    check_golden(path, passes=[DropRelu], update=update)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case that holds."""
    path = tmp_path / "case.txt"
    path.write_text(CASE)
    check(path, update=True)
    return path


def test_update_writes_what_was_done_and_the_result(case: Path) -> None:
    text = case.read_text()
    assert text.startswith(CASE)
    found = parse_case(text)
    assert found.changes == (
        "drop-relu: Relu of a Relu dropped at b\n"
        "drop-relu: left a alone: it reads no Relu\n"
        "drop-relu: left y alone: it reads no Relu\n"
    )
    assert "float[N,2,2,2] p = Sub(a, s)" in found.after
    check(case)
    check(case, update=True)
    assert case.read_text() == text


WRONG: dict[str, Callable[[str], str]] = {
    "an edge": lambda text: text.replace("p = Sub(a, s)", "p = Sub(s, a)"),
    "an attribute": lambda text: text.replace("pads=[0, 0, 0, 0]", "pads=[0, 0, 0, 1]"),
    "an attribute that is missing": lambda text: text.replace("<pads=[0, 0, 0, 0]>", ""),
    "a type": lambda text: text.replace("float[N,2,2,2] p", "float[N,2,2,1] p"),
    "a node too many": lambda text: text.replace(
        "  float[N,2,2,2] a = Relu(c)\n", "  float[N,2,2,2] a = Relu(c)\n" * 2
    ),
    "a count": lambda text: text.replace("drop-relu: Relu of a Relu dropped at b\n", ""),
    "a place": lambda text: text.replace("dropped at b", "dropped at y"),
    "a reason": lambda text: text.replace("it reads no Relu", "it reads a Relu", 1),
    "a weight": lambda text: text.replace("float[2,2,3,3] w = {...}", "float[2,2,3,3] v = {...}"),
    "an opset": lambda text: text.replace('<opset: ["": 17]>', '<opset: ["": 18]>'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_expectation_fails(case: Path, name: str) -> None:
    right = case.read_text()
    wrong = WRONG[name](right)
    assert wrong != right
    case.write_text(wrong)
    with pytest.raises(GoldenError, match=r"(?m)^[-+]"):
        check(case)
    assert case.read_text() == wrong, "only --update-golden writes"
    check(case, update=True)
    assert case.read_text() == right


def test_wrong_numbers_fail_and_are_not_written(case: Path) -> None:
    text = case.read_text().replace("times=1", "scale=1.001")
    case.write_text(text)
    for update in (False, True):
        with pytest.raises(AssertionError):
            check(case, update=update)
    assert case.read_text() == text


def test_numbers_are_not_compared_where_the_case_says_so(case: Path) -> None:
    case.write_text(case.read_text().replace("times=1", "scale=1.001").replace("dims: N=2", "dims: N=2\nrun: no"))
    check(case, update=True)


def test_weights_are_the_same_each_time_and_variances_positive() -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)'
    text = head + " <float[2] w, float[50] bn_var> { y = Add(x, w) }"
    first, second = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in read_model(text).graph.initializer} for _ in range(2)
    )
    assert list(first) == ["w", "bn_var"]
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert (first["bn_var"] > 0).all()
    onnx.checker.check_model(read_model(text))


def test_parse_case_wants_a_pipeline_and_a_model() -> None:
    for text in ("", "pipeline: a\n", "--- before\nx\n"):
        with pytest.raises(ValueError, match="needs a `pipeline:` line"):
            parse_case(text)


def test_cases_in_a_folder(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in golden_cases(tmp_path)] == ["a.txt", "b.txt", "c.txt"]


def test_the_plugin(tmp_path: Path) -> None:
    """As an author of passes uses it: a failure, --update-golden, and then success."""
    (tmp_path / "case.txt").write_text(CASE.replace("drop-relu{times=1}", "dce"))
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["lpcc.testing.plugin"]\n')
    (tmp_path / "test_it.py").write_text(f"def test_it(golden):\n    golden({str(tmp_path / 'case.txt')!r})\n")

    def run(*options: str) -> int:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ]
        return subprocess.run([*command, *options], capture_output=True, check=False).returncode

    assert [run(), run("--update-golden"), run()] == [1, 0, 0]

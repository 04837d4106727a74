from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from lpcc import edit
from lpcc.pipeline import Context, Fidelity, LocalPass
from lpcc.pipeline.base import Changes
from lpcc.pipeline.known import known_passes

BASE = ("-t", "arm-cortex-a72", "--dim", "H=8", "--dim", "W=8")


@dataclass(frozen=True)
class DropRelu(LocalPass):
    """A pass that is wrong."""

    name: ClassVar[str] = "drop-relu"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) == "Relu" and e.bypass(node):
                    changes.done(node, "dropped")


@pytest.fixture
def wrong_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**known_passes(), "drop-relu": DropRelu}
    monkeypatch.setattr("lpcc.pipeline.known.known_passes", lambda: known)


def test_names_the_culprit(lpcc: Callable[..., Any], model: Path, wrong_pass: None) -> None:
    done = lpcc("bisect", model, *BASE, "-p", "dce,fold-bn,drop-relu,dce", "--json", "found.json")
    assert done.code == 0
    assert done.out.startswith("pass 3 of 4, `drop-relu`: output `y` differs by ")
    culprit = json.loads(Path("found.json").read_text())["culprit"]
    assert (culprit["index"], culprit["pass"]) == (2, "drop-relu")


def test_nothing_to_find(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("bisect", model, *BASE, "-p", "fold-bn,dce", "--json", "found.json")
    assert "all 2 passes leave it sound" in done.out
    assert json.loads(Path("found.json").read_text())["culprit"] is None


def test_a_wrong_request_is_no_culprit(lpcc: Callable[..., Any], model: Path) -> None:
    done = lpcc("bisect", model, *BASE, "-p", "exact,quantize{skip=nosuch}")
    assert done.code == 2
    assert "quantize: skip names `nosuch`" in done.error


def test_on_data(lpcc: Callable[..., Any], model: Path, wrong_pass: None) -> None:
    np.savez("data.npz", x=np.ones((3, 3, 8, 8), np.float32))
    done = lpcc("bisect", model, "-t", "arm-cortex-a72", "-p", "drop-relu", "--data", "data.npz")
    assert "`drop-relu`" in done.out


def test_a_wide_tolerance_finds_nothing(lpcc: Callable[..., Any], model: Path, wrong_pass: None) -> None:
    assert "sound" in lpcc("bisect", model, *BASE, "-p", "drop-relu", "--tolerance", "1e6").out


def test_a_model_that_does_not_run_at_all_is_no_pass_s_fault(lpcc: Callable[..., Any], model: Path) -> None:
    broken = onnx.load(model)
    broken.graph.node[0].domain = "acme"
    broken.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(broken, "broken.onnx")
    done = lpcc("bisect", "broken.onnx", *BASE, "-p", "exact")
    assert done.code == 3
    assert "the model does not run before any pass" in done.error

"""The benchmark of factorisation: its networks, what it counts, and its verdicts, on small networks."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.passes.factorize import Factorize
from lpcc.pipeline import Context
from lpcc.runtime import Session

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/factorization.py`, imported as it is when it runs as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("factorization", "pruning", "zoo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("factorization")


def small_vgg(script: ModuleType) -> Any:
    return script.vgg16(width=4, size=32, classes=10, hidden=16)


def case_of(model: Any) -> Any:
    """As much of a case as measuring needs: a network and random images."""
    import factorization

    graph = factorization.annotated(model)
    image = np.random.default_rng(0).standard_normal((40, 3, 32, 32)).astype(np.float32)
    inputs = Session(model).inputs
    context = Context(calibration=Dataset.from_arrays({"input": image}, inputs=inputs))
    return SimpleNamespace(graph=graph, feeds={"input": image}, context=lambda: context)


def test_networks_have_the_layers_of_their_papers(script: ModuleType) -> None:
    vgg, resnet = script.annotated(small_vgg(script)), script.annotated(script.resnet50(width=4, size=64))
    assert [sum(node.op == op for node in vgg.nodes) for op in ("Conv", "Gemm", "MaxPool")] == [13, 3, 5]
    assert [sum(node.op == op for node in resnet.nodes) for op in ("Conv", "Gemm", "Add")] == [53, 1, 16]
    assert [node.inputs[1].shape[0] for node in vgg.nodes if node.op == "Conv"][-1] == 32
    assert [node.inputs[1].shape[0] for node in resnet.nodes if node.op == "Conv"][-1] == 128


def test_layers_with_little_work_are_told(script: ModuleType) -> None:
    graph = script.annotated(small_vgg(script))
    counts = script.work(graph)
    assert sum(counts.values()) > 0
    small = script.small_layers(graph)
    assert {node.name for node in graph.nodes if node.op == "Gemm"} == set(small)
    assert all(counts[name] < 0.1 * max(counts.values()) for name in small)
    assert set(small) < set(counts)


@pytest.mark.parametrize("method", ["bmd", "svd"])
def test_channels_between_layers_are_those_that_came_new(script: ModuleType, method: str) -> None:
    before, after = (script.annotated(small_vgg(script)) for _ in range(2))
    layer = next(node.name for node in before.nodes if node.op == "Conv" and node.inputs[1].shape[1] == 32)
    dense = next(node.name for node in before.nodes if node.op == "Gemm")
    ranks = (f"{layer}=24", f"{dense}=5")
    Factorize(method=(method,), ranks=ranks, fit="weights", bn=False).run(after, Context())
    assert sorted(script.between_layers(before, after)) == [5, 24]
    assert script.between_layers(before, before) == []


def test_the_predicted_error_is_that_of_the_ranks(script: ModuleType) -> None:
    model = script.vgg16(width=4, size=32, classes=10, hidden=16)
    case = case_of(model)
    little, much = (script.predicted(case, f"factorize{{ratio={share} fit=weights}}") for share in (0.3, 0.7))
    assert 0 < little < much < 1
    by_outputs = script.predicted(case, "factorize{ratio=0.3}")
    assert 0 < by_outputs < little


def test_times_are_shares_of_the_originals(script: ModuleType) -> None:
    case = case_of(small_vgg(script))
    same, larger = script.relative_times(case, [small_vgg(script), script.vgg16(16, 32, 10, 16)], seconds=0.3)
    assert 0.3 < same < 3
    assert larger > same


def test_real_time_is_judged(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "vgg16", lambda: _wide(script))
    monkeypatch.setattr(script, "REAL", ("factorize{macs=0.7 fit=weights bn=false}",))
    assert script.main(["--parts", "real", "--seconds", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "all multiples of 16: met" in said
    assert "times as fast, measured" in said
    assert "left alone: " in said

    monkeypatch.setattr(script, "channel_multiple", lambda _: 1000)
    assert script.main(["--parts", "real", "--seconds", "0.2"]) == 1
    assert "all multiples of 1000: NOT met: [" in capsys.readouterr().out


def _wide(script: ModuleType) -> Any:
    net = script.Builder("wide")
    x = net.conv(net.input(1, 3, 224, 224), 32, 3, 8, activation="relu")
    x = net.conv(net.conv(x, 96, 3, activation="relu"), 96, 3, activation="relu")
    return net.model(net.dense(net.flatten(net.global_pool(x)), 10))


def test_time_and_memory_are_taken(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    small = script.resnet50(width=8, size=64)
    monkeypatch.setattr(script, "resnet50", lambda: small)
    seconds, peak, cut = script.taken("factorize{method=bmd ratio=0.5 fit=weights}")
    assert 0 < seconds < 60
    assert 0.05 < peak < 20
    assert cut > 40


def test_a_miss_is_a_miss(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(_: argparse.Namespace) -> Any:
        yield "| at most 1: NOT met |"

    monkeypatch.setattr(script, "goals", part)
    assert script.main(["--parts", "goals"]) == 1
    assert "## goals" in capsys.readouterr().out


def test_ranks_of_equal_work_are_told_layer_by_layer(script: ModuleType) -> None:
    case = case_of(small_vgg(script))
    layer = next(iter(script.work(case.graph)))
    quoted = script.equal_ranks(case, f"factorize{{method=bmd ratio=0.5 fit=weights multiple=1 skip={layer}}}")
    told = tuple(text.strip('"') for text in quoted)
    assert told
    assert layer not in [text.split("=")[0] for text in told]
    after = script.annotated(small_vgg(script))
    Factorize(method=("bmd",), ranks=told, fit="weights", bn=False).run(after, Context())
    assert len(script.between_layers(case.graph, after)) == len(told)
    lost = [
        script.predicted(case, f"factorize{{method=bmd {which} fit=weights}}")
        for which in (f"ranks={','.join(quoted)}", f"ratio=0.5 multiple=1 skip={layer}")
    ]
    assert lost[0] == pytest.approx(lost[1])


def test_training_that_changed_nothing_says_so(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [SimpleNamespace(refused=[SimpleNamespace(reason=why)]) for why in ("a layer is small", "no epoch")]
    runs = [
        SimpleNamespace(item=SimpleNamespace(name=name), changes=own)
        for name, own in zip(("factorize", "distill"), changes, strict=True)
    ]
    monkeypatch.setattr(script, "run_pipeline", lambda *_: runs)
    case = case_of(small_vgg(script))
    case.name, case.top1, case.score, case.left = "net", 91.0, lambda _: 90.0, lambda _: 0.34
    line = script.judged(case, "dce", Context(), 0.7)
    assert line.startswith("| net 91.00: `dce` | 0.340 | 90.00 | 1.00 |")
    assert line.endswith("| at most 0.7: NOT met; no epoch |")
    assert script.judged(case, "dce", Context(), None).endswith("| no epoch |")

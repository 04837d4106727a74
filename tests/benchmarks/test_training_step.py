"""The network that the benchmark of training steps has written by hand is the one in the file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lpcc.graph import load

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/training_step.py`, imported as it is when it runs as a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "training_step", raising=False)
    return importlib.import_module("training_step")


def test_both_do_the_same_steps(zoo, benchmark):
    graph = load(zoo.model(benchmark.MODEL))
    ours, hand = Network(graph), benchmark.ResNet20()
    values = {name: torch.from_numpy(array) for name, array in ours.store().items()}
    benchmark.fill(hand, values, benchmark.order(graph, values))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in hand.parameters())
    torch.manual_seed(0)
    x, labels = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    ours.train()
    hand.train()
    mine = benchmark.stepper(list(ours.parameters()), lambda: ours({"input": x})["logits"], labels)
    theirs = benchmark.stepper(list(hand.parameters()), lambda: hand(x), labels)
    for _ in range(3):
        assert mine() == pytest.approx(theirs(), rel=1e-4)

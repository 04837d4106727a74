"""Names of layers in the options of passes: patterns, and names that no layer has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import onnx_graphsurgeon as gs
import pytest

from lpcc.errors import UsageError
from lpcc.graph import from_proto
from lpcc.pipeline import Changes, Context, Fidelity, Pass
from lpcc.pipeline.guard import Judgement, run_guarded
from lpcc.pipeline.layers import matching
from lpcc.pipeline.runner import run_pipeline
from lpcc.testing.golden import read_model

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,4] y) { [conv1] a = Relu(x) [conv10] b = Neg(a) [odd] c = Abs(b) y = Neg(c) }
"""


@dataclass(frozen=True)
class Spare(Pass):
    """Says what it was told to skip."""

    name: ClassVar[str] = "spare"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    seen: list[tuple[str, ...]] = field(default_factory=list)
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        self.seen.append(self.skip)
        changes = Changes()
        for node in graph.nodes:
            if node.name not in self.skip:
                changes.done(node, "looked at")
        return changes


@dataclass(frozen=True)
class Forget(Pass):
    """Renames a layer."""

    name: ClassVar[str] = "forget"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        next(node for node in graph.nodes if node.name == "odd").name = "even"
        changes.done("odd", "renamed")
        return changes


def skipped(*asked: str) -> tuple[str, ...]:
    item = Spare(skip=asked)
    run_pipeline(from_proto(read_model(MODEL)), [item], Context())
    return item.seen[0]


def test_a_name_goes_before_a_pattern() -> None:
    assert matching(["a[1]", "a1", "b"], ["a[1]"], "p: keep") == {"a[1]"}
    assert matching(["a1", "a2", "b"], ["a?", "b"], "p: keep") == {"a1", "a2", "b"}


def test_skip_takes_names_and_patterns() -> None:
    assert skipped("odd", "conv1") == ("odd", "conv1")
    assert skipped("conv*", "conv1", "y") == ("conv1", "conv10", "y")  # an unnamed node is called as what it makes


def test_skipping_what_is_not_there_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"spare: skip names `conv1x`, which no node .*: the nearest are `conv1`"):
        skipped("odd", "conv1x")
    with pytest.raises(UsageError, match="skip names `zzz"):
        skipped("zzz*")


def test_a_layer_may_be_called_as_it_was_before_it_was_rounded() -> None:
    graph = from_proto(read_model(MODEL))
    ctx = Context(unquantized=from_proto(read_model(MODEL.replace("conv10", "before"))))
    run_pipeline(graph, [Spare(skip=("before",))], ctx)


def test_what_the_guard_took_back_may_be_gone() -> None:
    spare = Spare()
    judged = iter([30.0, 5.0])  # the first attempt breaks the budget

    def judge(_: object) -> Judgement:
        found = next(judged)
        problem = "too much noise" if found > 10 else None
        return Judgement("sqnr", 1, None, None, None, None, found, problem)

    def noise(_reference: object, _candidate: object, names: list[str]) -> dict[str, float]:
        return {name: 5.0 if name == "c" else 60.0 for name in names}

    outcome = run_guarded(from_proto(read_model(MODEL)), [Forget(), spare], Context(), judge, noise)  # type: ignore[arg-type]
    assert [r.layer for r in outcome.returned] == ["odd"]
    assert spare.seen == [(), ("odd",)]  # in the second attempt, though nothing is called that any more

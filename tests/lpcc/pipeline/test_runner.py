"""Running pipelines: needs, records, hooks, failures; and finding the pass that broke a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc import edit
from lpcc.errors import DataError, PassError, UsageError
from lpcc.graph import clone, from_proto, load, to_proto
from lpcc.pipeline import Changes, Context, Fidelity, LocalPass, Need, Pass
from lpcc.pipeline.bisect import bisect
from lpcc.pipeline.hooks import Compare, Dump, Reproduce, Verify
from lpcc.pipeline.runner import Hook, Record, run_pipeline
from lpcc.testing.golden import read_model

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,4] y) { a = Relu(x)  b = Identity(a)  y = Neg(b) }
"""


@dataclass(frozen=True)
class DropIdentity(LocalPass):
    name: ClassVar[str] = "drop-identity"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def rewrite(self, graph: gs.Graph, ctx: Context, changes: Changes) -> None:
        with edit.Edit(graph) as e:
            for node in e.nodes:
                if edit.op(node) == "Identity" and e.bypass(node):
                    changes.done(node, "identity removed")


@dataclass(frozen=True)
class Swap(Pass):
    """A wrong pass that claims to be exact: it turns one operator into another."""

    name: ClassVar[str] = "swap"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    old: str = "Neg"
    new: str = "Abs"

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        for node in graph.nodes:
            if node.op == self.old:
                node.op = self.new
                changes.done(node, "swapped")
        return changes


@dataclass(frozen=True)
class Crash(Pass):
    name: ClassVar[str] = "crash"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        raise ZeroDivisionError("by design")


@dataclass(frozen=True)
class Rename(Pass):
    name: ClassVar[str] = "rename"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        graph.outputs[0].name = "z"
        changes = Changes()
        changes.done("y", "renamed")
        return changes


@dataclass(frozen=True)
class Greedy(DropIdentity):
    name: ClassVar[str] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})


def graph() -> gs.Graph:
    return from_proto(read_model(MODEL))


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}


def test_records_say_what_was_done() -> None:
    g = graph()
    (record,) = run_pipeline(g, [DropIdentity()], Context())
    assert record.changes.counts == {"identity removed": 1}
    assert record.seconds > 0
    assert [node.op for node in g.nodes] == ["Relu", "Neg"]


def test_a_missing_need_stops_the_run_before_any_work() -> None:
    g = graph()
    with pytest.raises(UsageError, match="`greedy` needs calibration images"):
        run_pipeline(g, [DropIdentity(), Greedy()], Context())
    assert len(g.nodes) == 3


def test_a_crash_is_a_pass_error_that_names_the_pass() -> None:
    with pytest.raises(PassError, match="`crash` crashed: ZeroDivisionError: by design"):
        run_pipeline(graph(), [DropIdentity(), Crash()], Context())


def test_analyses_are_cached_until_a_pass_changes_the_graph() -> None:
    calls = []

    def count(g: gs.Graph) -> int:
        calls.append(1)
        return len(g.nodes)

    class Look(Hook):
        def before(self, index: int, item: Pass, graph: gs.Graph) -> None:
            ctx.analysis(count, graph)
            ctx.analysis(count, graph)

    ctx = Context()
    run_pipeline(graph(), [DropIdentity(), DropIdentity(), DropIdentity()], ctx, [Look()])
    assert len(calls) == 2  # at the start, and once after the only pass that changed anything


def test_random_numbers_depend_on_seed_and_salt_alone() -> None:
    draw = [Context(seed=s).rng(salt).integers(1 << 30) for s in (0, 0, 1) for salt in ("a", "b")]
    assert draw[0] == draw[2]
    assert len({draw[0], draw[1], draw[4]}) == 3


def test_verify_refuses_an_invalid_graph() -> None:
    with pytest.raises(PassError, match="after pass `swap`"):
        run_pipeline(graph(), [Swap(new="NoSuchOperator")], Context(), [Verify(read_model(MODEL))])


def test_verify_refuses_a_changed_interface() -> None:
    with pytest.raises(PassError, match=r"`rename` .* changed the interface: the output `y` is gone"):
        run_pipeline(graph(), [Rename()], Context(), [Verify(read_model(MODEL))])


def test_compare_finds_the_pass_that_is_not_exact() -> None:
    with pytest.raises(PassError, match=r"`swap` .* is not exact here: output `y` differs"):
        run_pipeline(graph(), [DropIdentity(), Swap()], Context(), [Compare(read_model(MODEL), feeds())])


def test_compare_lets_exact_passes_through() -> None:
    run_pipeline(graph(), [DropIdentity()], Context(), [Compare(read_model(MODEL), feeds())])


def test_dump_writes_the_text_after_each_pass(tmp_path: Path) -> None:
    run_pipeline(graph(), [DropIdentity(), Swap()], Context(), [Dump(tmp_path / "dump")])
    assert sorted(p.name for p in (tmp_path / "dump").iterdir()) == [
        "000_drop-identity.txt",
        "001_swap.txt",
        "start.txt",
    ]
    assert "Identity" in (tmp_path / "dump" / "start.txt").read_text()
    assert "Identity" not in (tmp_path / "dump" / "000_drop-identity.txt").read_text()


def test_reproduce_saves_the_model_as_the_failing_pass_found_it(tmp_path: Path) -> None:
    g, ctx, passes = graph(), Context(), [DropIdentity(), Crash(), Swap()]
    hook = Reproduce(g, passes, ctx, tmp_path)
    with pytest.raises(PassError):
        run_pipeline(g, passes, ctx, [hook])
    folder = tmp_path / "lpcc-reproducer-crash"
    assert hook.written == folder
    assert [node.op for node in load(folder / "model.onnx").nodes] == ["Relu", "Neg"]
    assert (folder / "pipeline.txt").read_text() == "crash,swap\n"
    assert "ZeroDivisionError: by design" in (folder / "error.txt").read_text()


@dataclass(frozen=True)
class DropTyped(Pass):
    """Drops Relu nodes of known type, found by an analysis; all but those that it is told to skip."""

    name: ClassVar[str] = "drop-typed"
    fidelity: ClassVar[Fidelity] = Fidelity.APPROXIMATE
    op: str = "Relu"
    skip: tuple[str, ...] = ()

    def run(self, graph: gs.Graph, ctx: Context) -> Changes:
        changes = Changes()
        with edit.Edit(graph) as e:
            for node in ctx.analysis(typed_nodes, graph):
                if edit.op(node) == self.op and node.name not in self.skip and e.bypass(node):
                    changes.done(node, "dropped")
        return changes


def typed_nodes(graph: gs.Graph) -> list[gs.Node]:
    return [node for node in graph.nodes if node.outputs[0].dtype is not None]


CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) {
  [one] a = Relu(x)
  [two] b = Identity(a)
  [three] c = Relu(b)
  [four] d = Neg(c)
  [five] y = Abs(d)
}
"""


def test_reproduce_runs_the_passes_before_as_they_ran(tmp_path: Path) -> None:
    g, ctx = from_proto(read_model(CHAIN)), Context()
    passes = [DropTyped("Identity"), DropTyped("Relu"), Crash()]
    hook = Reproduce(g, passes, ctx, tmp_path)
    run_pipeline(g, passes[:1], ctx, [hook])
    exact = clone(g)
    run_pipeline(clone(exact), passes[1:2], ctx, [hook], first=1)  # an attempt of the guard
    with pytest.raises(PassError):
        run_pipeline(exact, [DropTyped("Relu", skip=("one",)), Crash()], ctx, [hook], first=1)
    assert hook.written is not None
    assert [node.name for node in load(hook.written / "model.onnx").nodes] == ["one", "four", "five"]


def test_reproduce_leaves_errors_of_the_user_alone(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Refuse(DropIdentity):
        name: ClassVar[str] = "refuse"

        def run(self, graph: gs.Graph, ctx: Context) -> Changes:
            raise DataError("an image holds NaN")

    g, ctx = graph(), Context()
    with pytest.raises(DataError):
        run_pipeline(g, [Refuse()], ctx, [Reproduce(g, [Refuse()], ctx, tmp_path)])
    assert not list(tmp_path.iterdir())


def test_hooks_see_every_pass_in_order() -> None:
    seen: list[str] = []

    class Log(Hook):
        def before(self, index: int, item: Pass, graph: gs.Graph) -> None:
            seen.append(f"before {index} {item.name}")

        def after(self, index: int, record: Record, graph: gs.Graph) -> None:
            seen.append(f"after {index} {record.item.name}")

        def failed(self, index: int, item: Pass, error: Exception) -> None:
            seen.append(f"failed {index} {item.name}")

    with pytest.raises(PassError):
        run_pipeline(graph(), [DropIdentity(), Crash()], Context(), [Log()])
    assert seen == ["before 0 drop-identity", "after 0 drop-identity", "before 1 crash", "failed 1 crash"]


@pytest.mark.parametrize("culprit", [Swap(), Crash(), Rename(), Swap(new="NoSuchOperator")], ids=str)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_bisect_finds_the_culprit(culprit: Pass, place: int) -> None:
    passes: list[Pass] = [DropIdentity()] * 6
    passes.insert(place, culprit)
    model = read_model(MODEL)
    found = bisect(model, passes, Context(), feeds())
    assert found is not None
    assert (found.index, found.item) == (place, culprit)
    assert found.problem


def test_bisect_of_a_sound_pipeline_finds_nothing() -> None:
    model = read_model(MODEL)
    untouched = to_proto(clone(from_proto(model)))
    assert bisect(model, [DropIdentity()], Context(), feeds()) is None
    assert to_proto(from_proto(model)) == untouched

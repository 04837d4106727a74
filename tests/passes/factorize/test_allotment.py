"""Which layers are cut and how: what is offered, chosen and left, before any weight changes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.errors import UsageError
from lpcc.graph import from_proto
from lpcc.passes import Factorize
from lpcc.passes.factorize import allotment
from lpcc.passes.factorize.allotment import Layers
from lpcc.passes.factorize.fitting import Cut
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.ranks.planning import pays
from lpcc.pipeline import Context
from lpcc.search import Infeasible
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,32,16,16] x) => (float[N,8] y)
<float[64,32,3,3] w1, float[64,64,3,3] w2, float[64,64,1,1] w3, float[8,64] w4>
{
    [a] c = Conv<pads = [1,1,1,1]>(x, w1)
    [b] d = Conv<pads = [1,1,1,1]>(c, w2)
    [point] e = Conv(d, w3)
    [pool] p = GlobalAveragePool(e)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w4)
}
"""
TARGET = Target.load("x86-avx2")


@pytest.fixture
def graph():
    """The network with `b` of rank 32, so that it can be cut for nothing."""
    found = from_proto(read_model(NETWORK))
    annotate(found)
    rng = np.random.default_rng(0)
    wide = np.einsum("nwr,rch->nchw", rng.standard_normal((64, 3, 32)), rng.standard_normal((32, 64, 3)))
    node(found, "b").inputs[1].values = wide.astype(np.float32)
    return found


def node(graph, name):
    return next(node for node in graph.nodes if node.name == name)


def layers(graph, ctx=None, **options):
    forms = {str(each.outputs[0].name): Form.of(each) for each in graph.nodes if each.op in ("Conv", "Gemm")}
    return Layers(graph, forms, {}, Factorize(**options), ctx or Context(target=TARGET))


def never(_cuts):
    raise AssertionError("nothing is to be measured")


def test_offers_all_save_time(graph):
    found, left = layers(graph, error=0.5).offered
    assert {layer.name for layer in found} | set(left) == {"c", "d", "e", "y"}
    assert {"c", "d"} <= {layer.name for layer in found}
    for layer in found:
        assert all(pays(layer.before, offer.price) for offer in layer.offers)
        assert all(0 <= offer.error <= 1 for offer in layer.offers)
    assert "x86-avx2" in left["y"] or "multiply-accumulates" in left["y"]


def test_within_an_error_what_costs_nothing_is_cut(graph):
    found = layers(graph, error=1e-6).allot(never)
    assert found.cuts == {"d": Cut("bmd", (32,))}
    assert set(found.left) == {"c", "e", "y"}


def test_errors_of_all_together_are_within_the_goal(graph):
    asked = layers(graph, error=0.5)
    found = asked.allot(never)
    known = {
        (layer.name, offer.method, offer.rank): offer.error for layer in asked.offered[0] for offer in layer.offers
    }
    kept = math.prod(1 - known[name, cut.method, cut.rank] for name, cut in found.cuts.items())
    assert 1 - kept <= 0.5
    assert len(found.cuts) > 1


def test_goals_that_cannot_be_met(graph):
    with pytest.raises(Infeasible, match=r"^factorize: macs=0.001 cannot be met: the best that ranks allow is macs="):
        layers(graph, macs=0.001).allot(never)


@pytest.mark.parametrize(("most", "worst"), [(0.0, 0.0), (3.0, 0.1), (50.0, 0.7)])
def test_the_largest_error_within_a_drop(graph, most, worst):
    """A network that drops by a hundred times the error of its worst layer, in percent."""
    asked = layers(graph, max_drop=most)
    known = {
        (layer.name, offer.method, offer.rank): offer.error for layer in asked.offered[0] for offer in layer.offers
    }
    tried = []

    def drop(cuts):
        errors = [known[name, cut.method, cut.rank] for name, cut in cuts.items()]
        tried.append(max(errors, default=0.0))
        return 100 * max((error for error in errors if error > 1e-6), default=0.0)

    found = asked.allot(drop)
    assert len(tried) == 8
    assert found.cuts
    assert max(known[name, cut.method, cut.rank] for name, cut in found.cuts.items()) <= max(worst, 1e-6)


def test_nothing_within_a_drop(graph):
    found = layers(graph, max_drop=1.0).allot(lambda _cuts: 100.0)
    assert found.cuts == {}
    assert {found.left[name] for name in ("c", "d")} == {"with it the drop would be too large"}
    assert found.left["y"].startswith("no rank pays on x86-avx2")


def test_goals_are_priced(graph):
    for options in ({"macs": 0.9}, {"error": 0.1}, {"max_drop": 1.0}):
        with pytest.raises(UsageError, match="priced on a target"):
            layers(graph, Context(), **options).allot(never)
    for options in ({"ratio": 0.5}, {"energy": 0.5}, {"evbmf": True}, {"ranks": ("a=4",)}):
        layers(graph, Context(), **options).allot(never)


@pytest.fixture
def stop(monkeypatch):
    """Function that presses Ctrl-C when so many layers are done; no more than one is worked on at a time."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    own = allotment.offers

    def slowly(*arguments):
        time.sleep(0.05)
        return own(*arguments)

    monkeypatch.setattr(allotment, "offers", slowly)

    def after(count):
        pressed = []

        def progress(_what, done, _total):
            if done == count and not pressed:
                pressed.append(True)
                raise KeyboardInterrupt

        return Context(target=TARGET, progress=progress)

    return after


@pytest.mark.parametrize("options", [{"macs": 0.2}, {"speedup": 2.5}])
def test_who_stops_has_what_is_done(graph, stop, options):
    """What cannot be met with so few layers is met for these."""
    found = layers(graph, stop(1), **options).allot(never)
    assert set(found.cuts) <= {"c", "d"}
    assert found.cuts
    assert found.left["y"] == "stopped before its turn"


def test_what_cannot_be_met_with_those_either(graph, stop):
    with pytest.raises(Infeasible, match=r"^factorize: macs=0.001 cannot be met: "):
        layers(graph, stop(1), macs=0.001).allot(never)


def test_who_stops_at_once_has_nothing(graph, monkeypatch, stop):
    monkeypatch.setattr(allotment, "offers", lambda *_: declined())
    found = layers(graph, stop(1), macs=0.2).allot(never)
    assert (found.cuts, found.left["y"]) == ({}, "stopped before its turn")


def declined():
    time.sleep(0.05)
    raise Declined("no")


def test_each_layer_gets_the_method_that_loses_least(graph):
    """`b` is a sum of 32 products of a column and a row, and no matrix of low rank in any other way."""
    both = layers(graph, ratio=0.5, method=("svd", "bmd")).allot(never)
    assert both.cuts["d"].method == "bmd"
    rows = np.random.default_rng(1).standard_normal((64, 24)) @ np.random.default_rng(2).standard_normal((24, 64 * 9))
    node(graph, "b").inputs[1].values = rows.reshape(64, 64, 3, 3).astype(np.float32)
    assert layers(graph, ratio=0.5, method=("svd", "bmd")).allot(never).cuts["d"].method == "svd"


def test_where_every_method_fails_each_says_why(graph):
    node(graph, "a").inputs[1].values = np.random.default_rng(0).standard_normal((64, 32, 3, 3)).astype(np.float32)
    left = layers(graph, energy=1.0).allot(never).left
    assert left["c"].startswith("bmd: rank 96 ")
    assert "; svd: rank 64 " in left["c"]


def test_ranks_are_rounded_up_to_what_kernels_like(graph):
    whole = layers(graph, energy=0.9, multiple=1, method=("bmd",)).allot(never)
    rounded = layers(graph, energy=0.9, multiple=16, method=("bmd",)).allot(never)
    for name in set(whole.cuts) & set(rounded.cuts):
        (own,), (up,) = whole.cuts[name].rank, rounded.cuts[name].rank
        assert up == -(-own // 16) * 16
    assert "d" in rounded.cuts


def test_progress_is_told(graph):
    told = []
    ctx = Context(target=TARGET, progress=lambda *step: told.append(step))
    layers(graph, ctx, error=0.1).allot(never)
    assert told[0] == ("decompose layers", 0, 4)
    assert told[-1] == ("decompose layers", 4, 4)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_one_pattern_may_stand_for_several(graph):
    found = layers(graph, ranks=("?=16", "head=2")).allot(never)
    assert found.cuts == {"c": Cut("bmd", (16,)), "d": Cut("bmd", (16,)), "y": Cut("bmd", (2,))}


def test_the_last_of_several_ranks_counts(graph):
    assert layers(graph, ranks=("*=4", "b=8")).allot(never).cuts["d"] == Cut("bmd", (8,))


def test_proposals(graph):
    asked = layers(graph, error=0.9)
    found = asked.proposals(0.3)
    assert {each.layer for each in found.layers} | set(found.left) == {"a", "b", "point", "head"}
    offered = {layer.name: layer.offers for layer in asked.offered[0]}
    results = {edit.label(each): str(each.outputs[0].name) for each in graph.nodes}
    for each in found.layers:
        within = [offer for offer in offered[results[each.layer]] if offer.error <= 0.3]
        assert each.after.latency_ms == min(offer.price.latency_ms for offer in within)
        assert not each.of_outputs
    assert asked.proposals(0.0).layers == ()
    assert "every rank that pays loses more: " in asked.proposals(1e-9).left["a"]


def test_proposals_go_by_the_sizes_asked_for(graph):
    forms = {str(each.outputs[0].name): Form.of(each) for each in graph.nodes if each.op in ("Conv", "Gemm")}
    one, four = (
        Layers(graph, forms, {}, Factorize(error=0.5), Context(target=TARGET), sizes).proposals(0.9)
        for sizes in ({}, {"N": 4})
    )
    assert four.total.macs == 4 * one.total.macs
    assert four.layers[0].before.macs == 4 * one.layers[0].before.macs

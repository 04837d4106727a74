"""A layer alone costs what it costs in the network: differences add up to what the whole network's estimate says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpcc import edit
from lpcc.analysis.types import annotate
from lpcc.cost import CostModel
from lpcc.graph import clone, from_proto, load
from lpcc.passes.factorize.emit import write
from lpcc.passes.factorize.form import Declined, Form
from lpcc.passes.factorize.methods import METHODS
from lpcc.passes.factorize.ranks import planning
from lpcc.passes.factorize.ranks.options import candidates
from lpcc.passes.factorize.ranks.planning import Goals, Layer, offers, plan
from lpcc.passes.factorize.ranks.prices import Prices
from lpcc.passes.factorize.ranks.skeleton import skeleton
from lpcc.passes.prune.multiples import channel_multiple
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,32,32] x) => (float[N,10] y, float[N,32,32,32] seen)
<float[32,3,3,3] w1, float[40,32,3,3] w2, float[40] b2, float[40,40,3,3] w3, float[40,32,1,1] w4, float[40] scale,
 float[40] shift, float[40] mean, float[40] var, float[10,40] w5, float[10] b5>
{
    [stem] c = Conv<pads = [1,1,1,1]>(x, w1)
    [on] seen = Relu(c)
    [wide] d = Conv<pads = [1,1,1,1], strides = [2,2]>(seen, w2, b2)
    [norm] n = BatchNormalization(d, scale, shift, mean, var)
    [relu] f = Relu(n)
    [deep] h = Conv<pads = [1,1,1,1]>(f, w3)
    [short] s = Conv<strides = [2,2]>(seen, w4)
    [sum] a = Add(h, s)
    [last] r = Relu(a)
    [pool] p = GlobalAveragePool(r)
    [flat] q = Flatten(p)
    [head] y = Gemm<transB = 1>(q, w5, b5)
}
"""


def network():
    graph = from_proto(read_model(NETWORK))
    annotate(graph)
    return graph


def layers(graph, prices):
    for node in graph.nodes:
        try:
            form = Form.of(node)
            yield node, form, prices.layer(node, form)
        except Declined:
            continue


def compare(graph, target, method, place):
    """The differences that layers make by their own prices, added up, and in the estimate of the whole graph."""
    prices, model = Prices(graph, target), CostModel(target)
    before = model.estimate(graph)
    assert prices.total.latency_ms == pytest.approx(before.latency_ms)
    changed = clone(graph)
    nodes = {node.outputs[0].name: node for node in changed.nodes}
    sums = dict.fromkeys(("latency_ms", "energy_mj", "weight_bytes", "macs"), 0.0)
    for node, form, own in layers(graph, prices):
        ranks = candidates(form, method, own.work, channel_multiple(target))
        if not ranks:
            continue
        rank = ranks[int(place * len(ranks))]
        after = own.after(method, rank)
        for name in sums:
            sums[name] += getattr(after, name) - getattr(own.before, name)
        with edit.Edit(changed) as e:
            write(e, nodes[node.outputs[0].name], form, skeleton(form, method, rank))
    annotate(changed)
    found = model.estimate(changed)
    return {name: (value, getattr(found, name) - getattr(before, name)) for name, value in sums.items()}


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512-vnni", "arm-cortex-a76", "stm32h747", "eyeriss"])
@pytest.mark.parametrize("method", ["svd", "bmd", "tucker2", "cpd"])
def test_differences_add_up(target, method):
    for alone, together in compare(network(), Target.load(target), method, 0.5).values():
        assert together != 0
        assert alone == pytest.approx(together, rel=0.02)


@pytest.mark.parametrize("name", ["fashion_mnist_vgg", "cifar10_resnet20_jpegft", "mobilenetv2_imagenet"])
@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512-vnni", "arm-cortex-a53"])
def test_differences_add_up_in_real_networks(zoo, name, target):
    """Rather less is promised than comes: what leaves the caches to the other layers is not counted."""
    graph = load(zoo.model(name))
    annotate(graph)
    for method, place in [("bmd", 0.3), ("svd", 0.6)]:
        found = compare(graph, Target.load(target), method, place)
        for quantity in ("macs", "weight_bytes"):
            assert found[quantity][0] == found[quantity][1]
        for quantity in ("latency_ms", "energy_mj"):
            alone, together = found[quantity]
            assert -0.01 * abs(together) <= alone - together <= 0.15 * abs(together)


def test_a_number_of_channels_that_leaves_the_layout_costs_more():
    graph = network()
    prices = Prices(graph, Target.load("x86-avx2"))
    own = {edit.label(node): price for node, _, price in layers(graph, prices)}["deep"]
    assert own.after("svd", (27,)).latency_ms > own.after("svd", (28,)).latency_ms
    assert own.after("svd", (27,)).macs < own.after("svd", (28,)).macs


def test_what_runs_in_the_kernel_is_priced_with_it():
    graph = network()
    target = Target.load("x86-avx2")
    prices = Prices(graph, target)
    cost = {layer.name: layer for layer in CostModel(target).estimate(graph).layers}
    for node, _, own in layers(graph, prices):
        assert own.before.latency_ms == pytest.approx(cost[edit.label(node)].latency_ms)
        assert own.before.macs == cost[edit.label(node)].macs
        assert own.before.weight_bytes == 4 * node.inputs[1].values.size


def test_the_graph_stays_as_it_is():
    graph = network()
    names = [
        (node.name, node.op, [t.name for t in node.inputs], [len(t.outputs) for t in node.outputs])
        for node in graph.nodes
    ]
    prices = Prices(graph, Target.load("x86-avx2"))
    for _, _, own in layers(graph, prices):
        own.after("bmd", (4,))
    assert names == [
        (node.name, node.op, [t.name for t in node.inputs], [len(t.outputs) for t in node.outputs])
        for node in graph.nodes
    ]


def test_an_unknown_shape_is_declined():
    model = read_model(NETWORK)
    model.graph.node[0].domain = "custom"
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    graph = from_proto(model)
    prices = Prices(graph, Target.load("x86-avx2"))
    node = next(node for node in graph.nodes if node.name == "head")
    with pytest.raises(Declined, match="shape"):
        prices.layer(node, Form.of(node))


def decompositions(form, *names):
    called = []

    def made(name):
        called.append(name)
        return METHODS[name](form)

    return {name: lambda name=name: made(name) for name in names}, called


def test_offers_save_time_and_are_not_decomposed_in_vain():
    graph = network()
    target = Target.load("x86-avx2")
    prices = Prices(graph, target)
    own = {edit.label(node): (form, price) for node, form, price in layers(graph, prices)}
    form, deep = own["deep"]
    methods, called = decompositions(form, "svd", "bmd")
    found = offers(deep, methods, 8)
    assert sorted(called) == ["bmd", "svd"]
    assert {offer.method for offer in found} == {"svd", "bmd"}
    for offer in found:
        assert offer.price.latency_ms < deep.before.latency_ms
        assert 0 <= offer.error <= 1
        assert offer.error == pytest.approx(METHODS[offer.method](form).error(offer.rank))
    form, head = own["head"]
    methods, called = decompositions(form, "svd")
    with pytest.raises(Declined, match=r"no rank pays on x86-avx2: the best, svd at \d+, takes \d\.\d\d times as long"):
        offers(head, methods, 8)
    assert not called


def test_a_layer_without_ranks_says_so():
    graph = network()
    prices = Prices(graph, Target.load("x86-avx2"))
    form, head = {edit.label(node): (form, price) for node, form, price in layers(graph, prices)}["head"]
    with pytest.raises(Declined, match="no rank that suits 66 channels"):
        offers(head, decompositions(form, "svd")[0], 66)


def test_ranks_beyond_the_full_one_are_the_full_one():
    graph = network()
    node = next(node for node in graph.nodes if node.name == "deep")
    rng = np.random.default_rng(0)
    low = np.einsum("nk,kcyx->ncyx", rng.standard_normal((40, 5)), rng.standard_normal((5, 40, 3, 3)))
    node.inputs[1].values = low.astype(np.float32)
    form = Form.of(node)
    own = Prices(graph, Target.load("x86-avx2")).layer(node, form)

    class Low:
        name = "svd"
        full = (5,)
        is_quick = True

        def error(self, rank):
            assert rank <= self.full
            return 0.0

    found = offers(own, {"svd": Low}, 8)
    assert [offer.rank for offer in found] == [(5,)]


def test_failures_are_the_reason():
    graph = network()
    prices = Prices(graph, Target.load("x86-avx2"))
    deep = next(price for node, _, price in layers(graph, prices) if node.name == "deep")

    def fails():
        raise Declined("degenerate")

    with pytest.raises(Declined, match=r"^cpd: degenerate$"):
        offers(deep, {"cpd": fails}, 8)


def test_a_plan_of_a_real_network_is_what_it_says(zoo):
    graph = load(zoo.model("fashion_mnist_vgg"))
    annotate(graph)
    target = Target.load("x86-avx2")
    prices = Prices(graph, target)
    found, left, forms = [], {}, {}
    for node, form, own in layers(graph, prices):
        name = edit.label(node)
        forms[name] = form
        try:
            methods = decompositions(form, "svd", "bmd")[0]
            found.append(Layer(name, own.before, offers(own, methods, channel_multiple(target))))
        except Declined as reason:
            left[name] = str(reason)
    made = plan(found, prices.total, Goals(macs=0.5), left)
    assert set(made.choices) | set(made.left) == set(forms)
    with edit.Edit(graph) as e:
        for node in e.nodes:
            choice = made.choices.get(edit.label(node))
            if choice is not None:
                write(e, node, forms[node.name], METHODS[choice.method](forms[node.name]).factors(choice.rank))
    annotate(graph)
    cost = CostModel(target).estimate(graph)
    assert cost.macs == made.total.macs <= 0.5 * prices.total.macs
    assert cost.latency_ms == pytest.approx(made.total.latency_ms, rel=0.02)
    assert 0 < made.error < 1
    assert planning.pays(prices.total, made.total)

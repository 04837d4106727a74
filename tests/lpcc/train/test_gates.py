"""Gates: their distribution, the work that stays at the goal, and what they do in a network."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.graph import from_proto, to_proto
from lpcc.runtime import Session
from lpcc.testing.golden import read_model
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.gates import Gate, Gated, learn, level, prior, probability, sampled, settled  # noqa: E402
from lpcc.train.network import Network  # noqa: E402

MODEL = """
<ir_version: 10, opset_import: ["": 17]>
g (float[N,3,8,8] x) => (float[N,5] y)
<float[6,3,3,1] a, float[4,6,1,3] b, float[8,4,3,1] c, float[5,8,1,3] d>
{
    p = Conv(x, a)
    q = Conv(p, b)
    r = Relu(q)
    s = Conv(r, c)
    t = Conv(s, d)
    u = GlobalAveragePool(t)
    y = Flatten(u)
}
"""
GATES = (
    Gate("p", "q", 4, 1, np.arange(6), np.ones(6)),
    Gate("s", "t", 4, 1, np.arange(8), np.ones(8)),
)


def cost(shares):
    return 0.2 + 0.3 * shares[0] + 0.5 * shares[1]


def feeds(count=4, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def tensors(count=4):
    return {name: torch.from_numpy(value) for name, value in feeds(count).items()}


def test_samples_have_the_probability_that_the_formula_says():
    torch.manual_seed(0)
    log_alpha = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    drawn = sampled(log_alpha, torch.rand(200_000, 4))
    np.testing.assert_allclose((drawn > 0).float().mean(0), probability(log_alpha), atol=4e-3)
    assert float(drawn.min()) == 0
    assert float(drawn.max()) == 1


def test_the_share_of_gates_that_are_fully_open_is_that_of_the_stretched_distribution():
    torch.manual_seed(1)
    log_alpha = torch.tensor([-1.0, 1.0])
    drawn = sampled(log_alpha, torch.rand(200_000, 2))
    at_most = torch.sigmoid(2 / 3 * torch.log(torch.tensor(1.1 / 0.1)) - log_alpha)  # P(s <= (1 - low) / (high - low))
    np.testing.assert_allclose((drawn == 1).float().mean(0), 1 - at_most, atol=4e-3)


def test_without_noise_a_gate_is_the_sample_of_an_even_draw_at_temperature_one():
    log_alpha = torch.tensor([-9.0, -1.0, 0.0, 0.5, 9.0])
    expected = (1 / (1 + np.exp(-log_alpha.numpy())) * 1.2 - 0.1).clip(0, 1)
    np.testing.assert_allclose(settled(log_alpha), expected, atol=1e-6)
    assert settled(log_alpha)[0] == 0
    assert settled(log_alpha)[-1] == 1


@pytest.mark.parametrize("goal", [0.05, 0.5, 0.9])
def test_the_level_solves_its_equation(goal):
    own = torch.randn(50, generator=torch.Generator().manual_seed(2)) * 3
    found = level(own, torch.mean, goal)
    assert float(probability(own + found).mean()) == pytest.approx(goal, abs=1e-4)


def test_a_step_along_the_gradient_leaves_the_work_as_it_is():
    """The gradient of what is behind the level has no part that changes the work: finite differences agree with it."""
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(7, generator=generator, dtype=torch.float64)
    pull = torch.randn(7, generator=generator, dtype=torch.float64)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)

    def left(open_):
        return (open_ * weights).sum() / weights.sum()

    def loss(w):
        return (torch.sin(w + level(w, left, 0.4)) * pull).sum()

    assert torch.autograd.gradcheck(loss, own.clone().requires_grad_(), eps=1e-4, atol=1e-4)


def test_evaluation_with_all_gates_open_is_the_network_itself():
    graph = from_proto(read_model(MODEL))
    gated = Gated(graph, GATES, cost, 1.0, start=[np.full(6, 0.0), np.full(8, 0.0)])
    with torch.no_grad():
        ours, plain = gated(tensors())["y"], Network(graph)(tensors())["y"]
    torch.testing.assert_close(ours, plain)


def test_the_work_falls_to_the_goal_and_stays():
    gated = Gated(from_proto(read_model(MODEL)), GATES, cost, 0.5, samples=100)

    def expected():
        with torch.no_grad():
            return float(gated.left(probability(gated.log_alpha())))

    seen = []
    gated.train()
    for _ in range(10):
        seen.append(expected())
        gated(tensors(10))
    seen.append(expected())
    assert seen[0] == pytest.approx(0.98, abs=1e-3)
    assert all(a >= b - 1e-4 for a, b in pairwise(seen))
    assert seen[6:] == pytest.approx([0.5] * 5, abs=1e-3)


def test_each_sample_has_gates_of_its_own_in_training_and_none_has_noise_in_evaluation():
    gated = Gated(from_proto(read_model(MODEL)), GATES, cost, 0.6)
    same = {"x": torch.from_numpy(np.repeat(feeds(1)["x"], 8, axis=0))}
    gated.seen += 1  # at the goal
    torch.manual_seed(0)
    with torch.no_grad():
        calm = gated(same)["y"]
        noisy = gated.train()(same)["y"]
    assert len(torch.unique(calm, dim=0)) == 1
    assert len(torch.unique(noisy, dim=0)) == 8


def test_without_noise_the_network_is_the_one_with_gates_in_its_weights():
    graph = from_proto(read_model(MODEL))
    gated = Gated(graph, GATES, cost, 0.6, start=[np.arange(6.0), np.arange(-8.0, 0.0)])
    gated.seen += 1
    nodes = {node.outputs[0].name: node for node in graph.nodes}
    for gate, score in zip(GATES, gated.scores(), strict=True):
        weight = nodes[gate.reader].inputs[1]
        value = settled(torch.from_numpy(score)).numpy()
        weight.values = (weight.values * value.reshape(1, -1, 1, 1)).astype(np.float32)
    with torch.no_grad():
        ours = gated(tensors())["y"].numpy()
    np.testing.assert_allclose(ours, Session(to_proto(graph)).run(feeds())["y"], atol=1e-5)


def test_the_prior_is_in_the_order_of_energies():
    graph = from_proto(read_model(MODEL))
    weight = next(node for node in graph.nodes if node.outputs[0].name == "p").inputs[1]
    weight.values = weight.values * np.array([1, 0, 100, 10, 0.1, 1], np.float32).reshape(-1, 1, 1, 1)
    first, _ = prior(Network(graph), GATES, tensors(16))
    assert np.argmin(first) == 1
    assert np.argmax(first) == 2
    assert np.isfinite(first).all()


def test_learning_is_repeatable_and_the_graph_stays_as_it_is():
    model = read_model(MODEL)
    recipe = Recipe(epochs=2, batch=16, holdout=0.0, learning_rate=1e-3, seed=5)

    def learnt():
        graph = from_proto(model)
        gated, history = learn(
            graph, from_proto(model), Dataset.from_arrays(feeds(64)), GATES, cost, 0.5, "auto", recipe
        )
        assert to_proto(graph) == to_proto(from_proto(model))
        assert len(history.epochs) == 2
        assert not history.held_out
        return np.concatenate(gated.scores())

    first = learnt()
    np.testing.assert_array_equal(first, learnt())
    assert len(np.unique(first)) == 14


def test_a_gate_may_stand_at_several_places():
    text = MODEL.replace("float[4,6,1,3] b", "float[4,3,1,3] b").replace("q = Conv(p, b)", "q = Conv<group=2>(p, b)")
    gate = Gate("p", "q", 4, 1, np.array([0, 1, 2, 0, 1, 2]), np.ones(6))
    gated = Gated(from_proto(read_model(text)), [gate], lambda shares: shares[0], 0.5)
    (scores,) = gated.scores()
    assert scores.shape == (3,)
    with torch.no_grad():
        assert gated(tensors())["y"].shape == (4, 5)

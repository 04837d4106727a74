"""Looking at a network as it is in training."""

from __future__ import annotations

import numpy as np
import pytest

from lpcc.errors import ModelError
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.network import Network  # noqa: E402
from lpcc.train.pairing.observing import observed  # noqa: E402

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N,4,3,3] x) => (float[N,4,3,3] y)
<float[4,4,1,1] w, float[4] scale, float[4] shift, float[4] mean, float[4] var, float ratio = {0.5}>
{
    a = Conv(x, w)
    b = BatchNormalization(a, scale, shift, mean, var)
    y = Dropout(b, ratio)
}
"""


def network(*, frozen: bool = False) -> Network:
    return Network(from_proto(read_model(MODEL)), frozen=frozen)


def feeds(count: int) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(np.random.default_rng(0).normal(size=(count, 4, 3, 3)).astype(np.float32))}


@pytest.mark.parametrize("training", [True, False])
def test_batch_norms_use_the_batch_and_learn_nothing(training: bool) -> None:
    one = network()
    one.train(training)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    values = observed(one, feeds(16), ["a", "b"])
    a = values["a"].transpose(0, 1).flatten(1)
    expected = (a - a.mean(1, keepdim=True)) / (a.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    found = values["b"].transpose(0, 1).flatten(1)
    rows = [np.polyfit(expected[c].numpy(), found[c].numpy(), 1, full=True)[1] for c in range(4)]
    assert max(float(row[0]) for row in rows) < 1e-6  # an affine map of what the batch normalises to
    spread = found.std(1, correction=0)
    assert torch.allclose(spread, dict(one.others)["scale"].detach().abs(), rtol=1e-3)
    assert one.training is training
    for name, value in one.state_dict().items():
        assert torch.equal(value, before[name])


def test_few_samples_use_running_statistics() -> None:
    one = network()
    assert torch.equal(observed(one, feeds(4))["y"], one(feeds(4))["y"])


def test_a_frozen_network_runs_as_it_is() -> None:
    one = network(frozen=True)
    assert torch.equal(observed(one, feeds(16))["y"], one(feeds(16))["y"])


def test_what_drops_drops_the_same_each_time_and_takes_no_random_numbers() -> None:
    one = network()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, second = (observed(one, feeds(16))["y"] for _ in range(2))
    assert torch.equal(first, second)
    assert (first == 0).any()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_fails_leaves_the_mode() -> None:
    one = network()
    one.train()
    with pytest.raises(ModelError):
        observed(one, feeds(16), ["none"])
    assert one.training

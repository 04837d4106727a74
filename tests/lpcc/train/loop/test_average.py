from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.average import Average, restore, state_of  # noqa: E402


class Module(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
        self.register_buffer("mean", torch.tensor([2.0]))
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("constant", torch.tensor(7.0), persistent=False)


def test_a_copy_is_put_back_in_place() -> None:
    module = Module()
    weight = module.weight
    state = state_of(module)
    assert sorted(state) == ["mean", "seen", "weight"]
    with torch.no_grad():
        module.weight += 5
        module.mean += 5
        module.seen += 5
    restore(module, state)
    assert module.weight is weight
    assert weight.tolist() == [1.0, 0.0]
    assert (float(module.mean), int(module.seen)) == (2.0, 3)
    assert weight.requires_grad


def test_what_is_unchanged_is_not_written_to() -> None:
    module = Module()
    state = state_of(module)
    version = module.weight._version
    restore(module, state)
    assert module.weight._version == version


def test_the_average_is_the_formula() -> None:
    module = Module()
    average = Average(module, 0.25)
    expected, mean = 1.0, 2.0
    for step in range(1, 6):
        with torch.no_grad():
            module.weight[0] = float(step)
            module.mean.fill_(10.0 * step)
            module.seen.fill_(step)
        average.update()
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        mean = decay * mean + (1 - decay) * 10 * step
    assert (1 + 1) / (10 + 1) < 0.25 < (1 + 5) / (10 + 5)  # both parts of the formula were seen
    assert average.state["weight"].tolist() == pytest.approx([expected, 0.0])
    assert average.state["weight"][1] == 0
    assert float(average.state["mean"]) == pytest.approx(mean)
    assert int(average.state["seen"]) == 5
    assert module.weight[0] == 5


def test_within_the_module_has_the_average_and_afterwards_its_own() -> None:
    module = Module()
    average = Average(module, 0.9)
    with torch.no_grad():
        module.weight += 8
    average.update()
    with average.in_place():
        assert module.weight.tolist() == average.state["weight"].tolist()
        assert 1 < module.weight[0] < 9
    assert module.weight.tolist() == [9.0, 8.0]


def test_goes_on_from_where_it_was() -> None:
    module = Module()
    one = Average(module, 0.9)
    with torch.no_grad():
        module.weight += 8
    one.update()
    other = Average(module, 0.9)
    other.load(one.state, one.steps)
    for average in (one, other):
        average.update()
    assert one.state["weight"].tolist() == other.state["weight"].tolist()
    assert one.state["weight"] is not other.state["weight"]

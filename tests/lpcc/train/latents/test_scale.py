"""Scales in training: positive, within their range, with the gradient of learned step size quantization."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.latents.scale import Multiple, Scale  # noqa: E402


def now(scale):
    return float(scale().detach())


def test_it_starts_as_the_graph_has_it():
    values = np.array([0.1, 3e-5, 7.0], dtype=np.float32)
    scale = Scale(["s"], values, 10, 7)
    assert np.array_equal(scale().detach().numpy(), values)
    assert np.array_equal(scale.stored()["s"], values)
    assert list(scale.others) == ["s"]
    assert scale.weights == {}


def test_a_step_of_descent_is_that_of_the_paper():
    value, numbers, greatest, rate = np.float32(0.04), 144, 7, 0.01
    scale = Scale(["s"], np.asarray(value), numbers, greatest)
    optimiser = torch.optim.SGD(scale.parameters(), lr=rate)
    (3.0 * scale()).backward()
    optimiser.step()
    expected = value - rate * 3.0 / np.sqrt(numbers * greatest)
    assert now(scale) == pytest.approx(expected, rel=1e-5)


def test_a_step_of_adam_moves_each_scale_by_a_share_of_itself():
    values = np.array([1e-4, 0.1, 2.0], dtype=np.float32)
    scale = Scale(["s"], values, 100, 7)
    optimiser = torch.optim.Adam(scale.parameters(), lr=0.01)
    scale().sum().backward()
    optimiser.step()
    np.testing.assert_allclose(scale().detach().numpy(), values * 0.99, rtol=1e-3)


def test_scales_of_small_channels_do_not_run_away():
    values = np.array([1e-4, 0.1, 0.1], dtype=np.float32)
    scale = Scale(["s"], values, 100, 7)
    scale().sum().backward()
    gradient = scale.share.grad.numpy()
    assert gradient[0] == pytest.approx(1e-3 * gradient[1], rel=1e-3)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_it_stays_positive_and_in_its_range(direction):
    scale = Scale(["s"], np.asarray(np.float32(0.5)), 1, 1, ceiling=0.6)
    optimiser = torch.optim.SGD(scale.parameters(), lr=10.0)
    for _ in range(5):
        optimiser.zero_grad()
        (direction * scale()).backward()
        optimiser.step()
        assert 0 < now(scale) <= np.float32(0.6)
    optimiser.zero_grad()
    (direction * scale()).backward()
    assert float(scale.share.grad) == 0, "no gradient leads further out"
    optimiser.zero_grad()
    (-direction * scale()).backward()
    assert float(scale.share.grad) != 0, "one leads back"


def test_a_floor_above_the_start_gives_way():
    scale = Scale(["s"], np.asarray(np.float32(0.5)), 1, 1, floor=0.7)
    assert now(scale) == 0.5


def test_without_training_it_has_no_parameter():
    scale = Scale(["s", "t"], np.asarray(np.float32(0.5)), 1, 1, trained=False)
    assert not list(scale.parameters())
    assert scale.others == {}
    assert scale.stored() == {"s": np.float32(0.5), "t": np.float32(0.5)}


def test_a_multiple_follows():
    scale = Scale(["s"], np.asarray(np.float32(0.5)), 1, 1)
    end = Multiple("least", scale, -128.0, (1,))
    with torch.no_grad():
        scale.share.mul_(0.5)
    assert end.stored()["least"].tolist() == [-32.0]
    assert end().shape == (1,)
    assert not end().requires_grad

"""Layers brought to the same positions."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.pairing.positions import averaged, common_grid, pooled, resized  # noqa: E402


def test_averages_over_all_positions() -> None:
    layer = torch.rand(2, 3, 4, 5)
    assert torch.allclose(averaged(layer), layer.mean((2, 3)))
    flat = torch.rand(2, 3)
    assert averaged(flat) is flat


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 8, 6), (2, 3, 8, 6, 4)])
def test_pools_to_halves(shape: tuple[int, ...]) -> None:
    layer = torch.rand(shape)
    half = tuple(size // 2 for size in shape[2:])
    found = pooled(layer, half)
    assert found.shape == (2, 3, *half)
    cell = layer[(0, 0, *(slice(0, 2) for _ in half))].mean()
    assert found[0, 0].reshape(-1)[0].item() == pytest.approx(cell.item(), rel=1e-6)
    assert pooled(layer, shape[2:]) is layer


def test_takes_the_coarser_along_each_axis() -> None:
    one, other = torch.rand(2, 3, 8, 2), torch.rand(2, 5, 4, 6)
    assert common_grid(one, other) == (4, 2)
    assert [tuple(layer.shape) for layer in resized(one, other)] == [(2, 3, 4, 2), (2, 5, 4, 2)]


def test_leaves_layers_of_the_same_positions_alone() -> None:
    one, other = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    assert resized(one, other) == (one, other)


def test_averages_layers_of_different_rank() -> None:
    one, other = torch.rand(2, 3, 4, 4), torch.rand(2, 5)
    assert [tuple(layer.shape) for layer in resized(one, other)] == [(2, 3), (2, 5)]

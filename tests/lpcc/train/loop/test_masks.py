from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop.masks import Masks, mask_of  # noqa: E402

Tensor = torch.Tensor


def floats(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def pruned(weight: Tensor, share: float) -> Tensor:
    weight = weight.clone()
    weight[weight.abs() < weight.abs().flatten().quantile(share)] = 0
    return weight


def rounded(weight: Tensor, bits: int, axis: int | None = None) -> Tensor:
    """Values of a grid of `bits`, one for each place along `axis`."""
    most = weight.abs().max() if axis is None else weight.abs().amax([d for d in range(weight.ndim) if d != axis], True)
    step = most / (2 ** (bits - 1) - 1)
    return (weight / step).round() * step


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (32, 64), (64, 1, 3, 3), (64, 16, 1, 1)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_zeros_among_floats_were_pruned(shape: tuple[int, ...], share: float) -> None:
    weight = pruned(floats(*shape), share)
    mask = mask_of(weight)
    assert mask is not None
    assert torch.equal(mask, weight != 0)


def test_one_zero_is_enough() -> None:
    weight = floats(8, 8)
    weight[3, 4] = 0
    assert Masks([weight]).pruned == 1


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (32, 64), (64, 1, 3, 3), (256, 16, 1, 1)])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_zeros_of_a_grid_mean_nothing(shape: tuple[int, ...], bits: int, axis: int | None) -> None:
    weight = rounded(floats(*shape), bits, None if axis is not None and shape[axis] == 1 else axis)
    assert (weight == 0).any()
    assert mask_of(weight) is None


@pytest.mark.parametrize("axis", [None, 0])
def test_weights_that_were_pruned_and_then_rounded(axis: int | None) -> None:
    weight = rounded(pruned(floats(64, 32, 3, 3), 0.8), 4, axis)
    assert mask_of(weight) is not None


def test_ternary_weights_are_a_grid() -> None:
    weight = floats(16, 8, 3, 3)
    assert mask_of(torch.where(weight.abs() < 0.7, 0.0, weight.sign() * 0.1)) is None


def test_vectors_integers_and_tensors_without_zeros_have_no_mask() -> None:
    assert mask_of(torch.zeros(8)) is None
    assert mask_of(torch.zeros(8, 8, dtype=torch.int64)) is None
    assert mask_of(floats(8, 8)) is None


def test_a_tensor_of_zeros_is_pruned_as_a_whole() -> None:
    assert Masks([torch.zeros(4, 4)]).pruned == 16


def test_pruned_weights_are_set_back_and_others_left() -> None:
    weight = torch.nn.Parameter(pruned(floats(16, 16), 0.5))
    other = torch.nn.Parameter(floats(16, 16))
    masks = Masks.of({"a": weight, "b": other})
    zeros = weight.detach() == 0
    optimiser = torch.optim.SGD([weight, other], lr=0.1, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        ((weight @ other) ** 2).sum().backward()
        optimiser.step()
        assert weight.detach()[zeros].any()
        masks.apply()
    assert not weight.detach()[zeros].any()
    assert (weight.detach()[~zeros] != 0).all()
    assert masks.pruned == int(zeros.sum())

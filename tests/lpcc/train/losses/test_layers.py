"""Losses on hidden layers, each against its equation in NumPy, and what they must not see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lpcc.errors import UsageError

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses.base import Setting, Term  # noqa: E402
from lpcc.train.losses.layers import Attention, Correlation, Features, Hints, LayerLoss  # noqa: E402
from lpcc.train.losses.order import Order  # noqa: E402
from lpcc.train.pairing import Pair, Pairing  # noqa: E402

Array = np.ndarray[Any, Any]


def layers(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def bound(loss: LayerLoss, student: Array, teacher: Array, *, given: bool = False, axis: int = 1) -> Term:
    pair = Pair("s", "t", axis, axis)
    return loss.bind(bench({"s": student}, {"t": teacher}, pair, given=given))


def bench(student: dict[str, Array], teacher: dict[str, Array], *pairs: Pair, given: bool = False) -> Setting:
    return Setting((), Pairing(pairs, given), tensors(student), tensors(teacher), labelled=False)


def tensors(arrays: dict[str, Array]) -> dict[str, Any]:
    return {name: torch.tensor(array) for name, array in arrays.items()}


def value(loss: LayerLoss, student: Array, teacher: Array) -> float:
    return bound(loss, student, teacher)({"s": torch.tensor(student)}, {"t": torch.tensor(teacher)}, None).item()


class TestFeatures:
    def test_is_the_error_relative_to_the_energy(self) -> None:
        student, teacher = layers((4, 6, 3, 3), (4, 6, 3, 3))
        expected = ((student - teacher) ** 2).sum() / (teacher**2).sum()
        assert value(Features(), student, teacher) == pytest.approx(expected, rel=1e-9)
        assert value(Features(), teacher, teacher) == 0
        assert value(Features(), 0 * teacher, teacher) == pytest.approx(1)

    def test_averages_the_finer_layer_to_the_coarser(self) -> None:
        student, teacher = layers((4, 6, 4, 2), (4, 6, 2, 4))
        coarse = [student.reshape(4, 6, 2, 2, 2).mean(3), teacher.reshape(4, 6, 2, 2, 2).mean(4)]
        assert value(Features(), student, teacher) == pytest.approx(value(Features(), *coarse), rel=1e-9)

    def test_refuses_other_widths(self) -> None:
        student, teacher = layers((4, 3, 2, 2), (4, 6, 2, 2))
        for given in (False, True):
            with pytest.raises(UsageError, match="`s` has 3 channels where the teacher's `t` has 6: use `hint`"):
                bound(Features(), student, teacher, given=given)

    def test_passes_over_pairs_of_other_widths_that_were_found_but_not_given(self) -> None:
        s, t, u, v = layers((4, 3, 2, 2), (4, 6, 2, 2), (4, 5), (4, 5))
        pairs = Pair("s", "t"), Pair("u", "v")
        term = Features().bind(bench({"s": s, "u": u}, {"t": t, "v": v}, *pairs))
        assert term.student_taps == ("u",)
        assert term.teacher_taps == ("v",)
        with pytest.raises(UsageError, match="use `hint`"):
            Features().bind(bench({"s": s, "u": u}, {"t": t, "v": v}, *pairs, given=True))


class TestHints:
    def test_begins_at_the_ridge_regression(self) -> None:
        student, teacher = layers((40, 3, 2, 2), (40, 5, 2, 2))
        x, y = (a.transpose(0, 2, 3, 1).reshape(-1, a.shape[1]) for a in (student, teacher))
        centred = x - x.mean(0)
        gram = centred.T @ centred
        weight = np.linalg.solve(gram + 0.01 * np.trace(gram) / 3 * np.eye(3), centred.T @ (y - y.mean(0)))
        told = centred @ weight + y.mean(0)
        expected = ((told - y) ** 2).sum() / (y**2).sum()
        assert value(Hints(), student, teacher) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("shape", [(40, 6), (40, 6, 5), (40, 6, 3, 2), (40, 6, 2, 2, 2)])
    def test_is_nothing_where_the_teacher_is_a_map_of_the_student(self, shape: tuple[int, ...]) -> None:
        (student,) = layers(shape)
        mixing = np.random.default_rng(5).normal(size=(9, 6))
        teacher = np.moveaxis(np.tensordot(mixing, student, (1, 1)), 0, 1) + 2
        assert value(Hints(), student, teacher) < 1e-3

    def test_trains_its_regressor(self) -> None:
        student, teacher = layers((8, 3, 2, 2), (8, 5, 2, 2))
        term = bound(Hints(), student, teacher)
        assert {tuple(p.shape) for p in term.parameters()} == {(5, 3), (5,)}
        other = {"s": torch.tensor(layers((8, 3, 2, 2), seed=3)[0])}
        taught = {"t": torch.tensor(teacher)}
        before = term(other, taught, None)
        before.backward()
        with torch.no_grad():
            for parameter in term.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
        assert term(other, taught, None) < before

    def test_takes_channels_where_they_are(self) -> None:
        student, teacher = layers((8, 4, 3), (8, 4, 5))
        last = bound(Hints(), student, teacher, axis=-1)
        first = bound(Hints(), student.swapaxes(1, 2).copy(), teacher.swapaxes(1, 2).copy())
        expected = first(
            {"s": torch.tensor(student).transpose(1, 2)}, {"t": torch.tensor(teacher).transpose(1, 2)}, None
        )
        found = last({"s": torch.tensor(student)}, {"t": torch.tensor(teacher)}, None)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)

    def test_of_layers_of_different_rank_compares_means_over_positions(self) -> None:
        student, teacher = layers((30, 4, 3, 3), (30, 5))
        pooled = value(Hints(), student.mean((2, 3)), teacher)
        assert value(Hints(), student, teacher) == pytest.approx(pooled, rel=1e-9)

    def test_of_a_silent_layer_is_finite(self) -> None:
        assert value(Hints(), np.zeros((4, 3)), np.zeros((4, 5))) == 0
        assert math.isfinite(value(Hints(), np.zeros((4, 3)), layers((4, 5))[0]))


class TestAttention:
    def test_is_the_distance_of_normalised_maps(self) -> None:
        student, teacher = layers((4, 3, 2, 5), (4, 6, 2, 5))
        maps = [(a**2).sum(1).reshape(4, -1) for a in (student, teacher)]
        maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
        expected = ((maps[0] - maps[1]) ** 2).sum(1).mean()
        assert value(Attention(), student, teacher) == pytest.approx(expected, rel=1e-9)

    def test_takes_the_power_that_it_is_given(self) -> None:
        student, teacher = layers((4, 3, 2, 5), (4, 6, 2, 5))
        maps = [(np.abs(a) ** 4).sum(1).reshape(4, -1) for a in (student, teacher)]
        maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
        expected = ((maps[0] - maps[1]) ** 2).sum(1).mean()
        assert value(Attention(4.0), student, teacher) == pytest.approx(expected, rel=1e-9)

    def test_sees_neither_scale_nor_sign_nor_order_of_channels(self) -> None:
        student, teacher = layers((4, 6, 3, 3), (4, 6, 3, 3))
        assert value(Attention(), -3 * teacher[:, ::-1].copy(), teacher) == pytest.approx(0, abs=1e-9)
        assert value(Attention(), student, teacher) > 0.01

    def test_refuses_layers_without_positions(self) -> None:
        for shape in ((4, 6), (4, 6, 1, 1)):
            student, teacher = layers(shape, shape)
            with pytest.raises(UsageError, match="`attention` compares maps over positions"):
                bound(Attention(), student, teacher)


class TestCorrelation:
    def test_is_the_distance_of_expanded_gaussian_kernels(self) -> None:
        student, teacher = layers((5, 3, 2, 2), (5, 7, 2, 2))
        kernels = []
        for a in (student.mean((2, 3)), teacher.mean((2, 3))):
            unit = a / np.linalg.norm(a, axis=1, keepdims=True)
            kernel = np.zeros((5, 5))
            for i in range(5):
                for j in range(5):
                    for p in range(3):
                        kernel[i, j] += math.exp(-0.8) * 0.8**p / math.factorial(p) * (unit[i] @ unit[j]) ** p
            kernels.append(kernel)
        expected = ((kernels[0] - kernels[1]) ** 2).sum() / ((kernels[1] - kernels[1].mean()) ** 2).sum()
        assert value(Correlation(), student, teacher) == pytest.approx(expected, rel=1e-9)

    def test_tends_to_the_gaussian_kernel_itself(self) -> None:
        student, teacher = layers((5, 3), (5, 7))
        kernels = []
        for a in (student, teacher):
            unit = a / np.linalg.norm(a, axis=1, keepdims=True)
            squares = ((unit[:, None] - unit[None]) ** 2).sum(-1)
            kernels.append(np.exp(-0.4 * squares))
        expected = ((kernels[0] - kernels[1]) ** 2).sum() / ((kernels[1] - kernels[1].mean()) ** 2).sum()
        assert value(Correlation(order=8), student, teacher) == pytest.approx(expected, rel=1e-4)

    def test_sees_no_rotation_and_no_scale(self) -> None:
        student, teacher = layers((5, 6), (5, 6))
        rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
        assert value(Correlation(), 3 * teacher @ rotation, teacher) == pytest.approx(0, abs=1e-9)
        assert value(Correlation(), student, teacher) > 0.1

    def test_compares_the_deepest_pair_or_all(self) -> None:
        a, b = layers((5, 6), (5, 6))
        pairs = Pair("a", "a"), Pair("b", "b")
        setting = bench({"a": a, "b": b}, {"a": a, "b": b}, *pairs)
        assert Correlation().bind(setting).student_taps == ("b",)
        assert Correlation(layers="all").bind(setting).student_taps == ("a", "b")

    def test_refuses_batches_of_one(self) -> None:
        student, teacher = layers((1, 6), (1, 6))
        with pytest.raises(UsageError, match=r"compares the samples of a batch.*larger batches"):
            bound(Correlation(), student, teacher)

    def test_of_a_last_batch_of_one_is_nothing(self) -> None:
        student, teacher = layers((5, 6), (5, 6))
        term = bound(Correlation(), student, teacher)
        assert term({"s": torch.tensor(student[:1])}, {"t": torch.tensor(teacher[:1])}, None).item() < 1e-9


LOSSES = [Features(), Hints(), Attention(), Attention(3.0), Correlation(), Order(), Order(margin=2.0)]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss: LayerLoss) -> None:
    student, teacher = layers((5, 4, 2, 3), (5, 4, 2, 3))
    term = bound(loss, student, teacher)
    given = torch.tensor(student + 0.1, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: term({"s": s}, {"t": torch.tensor(teacher)}, None), (given,))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, Features)])
def test_gradients_where_widths_and_positions_differ(loss: LayerLoss) -> None:
    student, teacher = layers((5, 3, 4, 2), (5, 6, 2, 4))
    term = bound(loss, student, teacher)
    given = torch.tensor(student + 0.1, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: term({"s": s}, {"t": torch.tensor(teacher)}, None), (given,))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_along_the_gradient_lowers_it(loss: LayerLoss) -> None:
    student, teacher = layers((5, 4, 2, 3), (5, 4, 2, 3))
    term = bound(loss, student, teacher)
    taught = {"t": torch.tensor(teacher)}
    given = torch.tensor(student, requires_grad=True)
    before = term({"s": given}, taught, None)
    before.backward()
    step = 0.05 * given.grad / given.grad.norm()
    assert term({"s": given.detach() - step}, taught, None) < before


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_compared_in_single(loss: LayerLoss) -> None:
    student, teacher = (a.astype(np.float32) for a in layers((5, 4, 2, 3), (5, 4, 2, 3)))
    term = bound(loss, student, teacher)
    found = term({"s": torch.tensor(student).bfloat16()}, {"t": torch.tensor(teacher).bfloat16()}, None)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(value(loss, student, teacher), rel=0.1, abs=0.05)


@pytest.mark.parametrize("loss", LOSSES)
def test_refuses_networks_whose_layers_do_not_pair(loss: LayerLoss) -> None:
    with pytest.raises(UsageError, match=f"loss `{loss.name}` compares hidden layers, and no layers"):
        loss.bind(bench({}, {}))

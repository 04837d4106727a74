"""Losses on outputs, each against its equation in NumPy, and what they must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from lpcc.errors import DataError, UsageError

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses.base import OutputLoss, Setting  # noqa: E402
from lpcc.train.losses.endings import Ending, Kind, Reading  # noqa: E402
from lpcc.train.losses.outputs import (  # noqa: E402
    Automatic,
    HardLabels,
    Logits,
    Outputs,
    SoftTargets,
    TeacherLabels,
)
from lpcc.train.pairing import Pairing  # noqa: E402

Array = np.ndarray[Any, Any]


def ending(kind: Kind, **reading: Any) -> Ending:
    read = Reading("y", "y", **reading)
    return Ending("y", kind, read, read)


CLASSES = ending(Kind.CLASSES)
FLAGS = ending(Kind.FLAGS)
NUMBERS = ending(Kind.NUMBERS)


def arrays(*shape: int, count: int = 2, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) * 3 for _ in range(count)]


def value(
    loss: OutputLoss, end: Ending, student: Array, teacher: Array | None = None, labels: Array | None = None
) -> float:
    taught = {} if teacher is None else {"y": torch.tensor(teacher)}
    given = None if labels is None else torch.tensor(labels)
    return loss.ending(end, {"y": torch.tensor(student)}, taught, given).item()


def setting(*ends: Ending, labelled: bool = False, **teacher: Array) -> Setting:
    values = {name: torch.tensor(array) for name, array in teacher.items()}
    return Setting(ends, Pairing(), values, values, labelled)


class TestSoftTargets:
    @pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
    def test_is_the_divergence_of_softened_probabilities(self, temperature: float) -> None:
        student, teacher = arrays(5, 7)
        p, q = softmax(teacher / temperature, 1), softmax(student / temperature, 1)
        expected = temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
        assert value(SoftTargets(temperature), CLASSES, student, teacher) == pytest.approx(expected, rel=1e-9)

    def test_of_flags_is_that_of_each_choice(self) -> None:
        student, teacher = arrays(5, 7)
        p, q = expit(teacher / 2), expit(student / 2)
        each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        assert value(SoftTargets(2.0), FLAGS, student, teacher) == pytest.approx(4 * each.sum(1).mean(), rel=1e-9)

    def test_takes_each_pixel_for_a_sample(self) -> None:
        student, teacher = arrays(2, 3, 4, 5)
        rows = [a.transpose(0, 2, 3, 1).reshape(-1, 3) for a in (student, teacher)]
        expected = value(SoftTargets(), CLASSES, *rows)
        assert value(SoftTargets(), CLASSES, student, teacher) == pytest.approx(expected, rel=1e-12)

    def test_reads_classes_along_any_axis(self) -> None:
        student, teacher = arrays(2, 4, 5, 3)
        last = value(SoftTargets(), ending(Kind.CLASSES, axis=-1), student, teacher)
        moved = [a.transpose(0, 3, 1, 2) for a in (student, teacher)]
        assert last == pytest.approx(value(SoftTargets(), CLASSES, *moved), rel=1e-12)

    def test_before_opset_13_takes_all_axes_that_follow(self) -> None:
        student, teacher = arrays(4, 2, 3)
        rows = [a.reshape(4, 6) for a in (student, teacher)]
        joined = value(SoftTargets(), ending(Kind.CLASSES, joined=True), student, teacher)
        assert joined == pytest.approx(value(SoftTargets(), CLASSES, *rows), rel=1e-12)

    def test_takes_scores_without_a_batch_for_one_sample(self) -> None:
        student, teacher = arrays(7)
        expected = value(SoftTargets(), CLASSES, student[None], teacher[None])
        for end in (ending(Kind.CLASSES, axis=0), ending(Kind.CLASSES, axis=0, joined=True)):
            assert value(SoftTargets(), end, student, teacher) == pytest.approx(expected, rel=1e-12)

    def test_takes_logarithms_of_probabilities(self) -> None:
        student, teacher = arrays(5, 7)
        given = [softmax(a, 1) for a in (student, teacher)]
        expected = value(SoftTargets(), CLASSES, student, teacher)
        found = value(SoftTargets(), ending(Kind.CLASSES, probabilities=True), *given)
        assert found == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("end", [CLASSES, FLAGS])
    def test_is_zero_for_equals_and_above_for_others(self, end: Ending) -> None:
        student, teacher = arrays(5, 7)
        assert value(SoftTargets(), end, teacher, teacher) == pytest.approx(0, abs=1e-12)
        assert value(SoftTargets(), end, student, teacher) > 0.1

    def test_sees_no_constant_added_to_all_scores(self) -> None:
        student, teacher = arrays(5, 7)
        shifted = student + np.arange(5)[:, None]
        assert value(SoftTargets(), CLASSES, shifted, teacher) == pytest.approx(
            value(SoftTargets(), CLASSES, student, teacher), rel=1e-9
        )

    def test_sees_no_order_of_samples_or_classes(self) -> None:
        student, teacher = arrays(5, 7)
        rng = np.random.default_rng(1)
        rows, classes = rng.permutation(5), rng.permutation(7)
        mixed = [a[rows][:, classes] for a in (student, teacher)]
        assert value(SoftTargets(), CLASSES, *mixed) == pytest.approx(
            value(SoftTargets(), CLASSES, student, teacher), rel=1e-12
        )

    def test_stays_finite_for_scores_far_apart(self) -> None:
        for end in (CLASSES, FLAGS):
            found = value(SoftTargets(1.0), end, np.array([[400.0, -400.0]]), np.array([[-400.0, 400.0]]))
            assert 700 < found < 2000


class TestHardLabels:
    labels = np.array([0, 3, 6, 6, 2])

    def test_is_the_cross_entropy(self) -> None:
        (student,) = arrays(5, 7, count=1)
        expected = -log_softmax(student, 1)[np.arange(5), self.labels].mean()
        assert value(HardLabels(), CLASSES, student, labels=self.labels) == pytest.approx(expected, rel=1e-9)

    def test_smooths_labels(self) -> None:
        (student,) = arrays(5, 7, count=1)
        truth = 0.8 * np.eye(7)[self.labels] + 0.2 / 7
        expected = -(truth * log_softmax(student, 1)).sum(1).mean()
        assert value(HardLabels(0.2), CLASSES, student, labels=self.labels) == pytest.approx(expected, rel=1e-9)
        assert value(HardLabels(0.2), CLASSES, student, labels=np.eye(7)[self.labels]) == pytest.approx(expected)

    def test_passes_over_negative_labels(self) -> None:
        (student,) = arrays(5, 7, count=1)
        known = np.array([0, 3])
        for end in (CLASSES, FLAGS):
            few = value(HardLabels(0.1), end, student[:2], labels=known)
            assert value(HardLabels(0.1), end, student, labels=np.array([0, 3, -1, -5, -1])) == pytest.approx(few)
            assert value(HardLabels(), end, student, labels=np.full(5, -1)) == 0

    def test_has_a_label_for_each_pixel_where_classes_are_a_map(self) -> None:
        (student,) = arrays(2, 3, 4, 5, count=1)
        labels = np.random.default_rng(2).integers(0, 3, (2, 4, 5))
        logs = log_softmax(student, 1).transpose(0, 2, 3, 1).reshape(-1, 3)
        expected = -logs[np.arange(40), labels.reshape(-1)].mean()
        assert value(HardLabels(), CLASSES, student, labels=labels) == pytest.approx(expected, rel=1e-9)

    def test_of_flags_is_that_of_each(self) -> None:
        (student,) = arrays(5, 7, count=1)
        truth = np.eye(7)[self.labels]
        each = -(truth * np.log(expit(student)) + (1 - truth) * np.log(1 - expit(student)))
        assert value(HardLabels(), FLAGS, student, labels=self.labels) == pytest.approx(each.sum(1).mean(), rel=1e-9)

    def test_of_one_flag_is_that_of_yes_and_no(self) -> None:
        (student,) = arrays(4, 1, count=1)
        truth = np.array([0, 1, 1, 0])
        right = np.where(truth == 1, expit(student[:, 0]), 1 - expit(student[:, 0]))
        assert value(HardLabels(), FLAGS, student, labels=truth) == pytest.approx(-np.log(right).mean(), rel=1e-9)

    def test_refuses_labels_beyond_the_classes(self) -> None:
        with pytest.raises(DataError, match="label 7 is beyond the 7 classes of output `y`"):
            value(HardLabels(), CLASSES, arrays(5, 7)[0], labels=self.labels + 1)

    def test_refuses_another_number_of_labels(self) -> None:
        with pytest.raises(DataError, match="5 rows of scores in a batch of 4 labels"):
            value(HardLabels(), CLASSES, arrays(5, 7)[0], labels=self.labels[:4])

    def test_needs_labels(self) -> None:
        with pytest.raises(UsageError, match="`hard` needs labels"):
            HardLabels().bind(setting(CLASSES, y=arrays(5, 7)[0]))
        with pytest.raises(DataError, match="a batch has none"):
            value(HardLabels(), CLASSES, arrays(5, 7)[0])


class TestTeacherLabels:
    def test_is_the_cross_entropy_with_what_the_teacher_chooses(self) -> None:
        student, teacher = arrays(5, 7)
        expected = value(HardLabels(), CLASSES, student, labels=teacher.argmax(1))
        assert value(TeacherLabels(), CLASSES, student, teacher) == pytest.approx(expected, rel=1e-12)

    def test_of_flags_is_that_of_each_decision(self) -> None:
        student, teacher = arrays(5, 7)
        each = -np.where(teacher > 0, np.log(expit(student)), np.log(1 - expit(student)))
        assert value(TeacherLabels(), FLAGS, student, teacher) == pytest.approx(each.sum(1).mean(), rel=1e-9)

    def test_sees_no_sureness_of_the_teacher(self) -> None:
        student, teacher = arrays(5, 7)
        assert value(TeacherLabels(), CLASSES, student, teacher * 9) == value(
            TeacherLabels(), CLASSES, student, teacher
        )


class TestLogits:
    def test_is_half_the_squared_difference_without_means(self) -> None:
        student, teacher = arrays(5, 7)
        gap = student - student.mean(1, keepdims=True) - teacher + teacher.mean(1, keepdims=True)
        assert value(Logits(), CLASSES, student, teacher) == pytest.approx((gap**2).mean() / 2, rel=1e-9)

    def test_of_flags_keeps_means(self) -> None:
        student, teacher = arrays(5, 7)
        expected = ((student - teacher) ** 2).mean() / 2
        assert value(Logits(), FLAGS, student, teacher) == pytest.approx(expected, rel=1e-9)

    def test_is_what_soft_targets_tend_to(self) -> None:
        student, teacher = arrays(5, 7)
        hot = SoftTargets(temperature=100.0)
        assert value(hot, CLASSES, student, teacher) == pytest.approx(
            value(Logits(), CLASSES, student, teacher), rel=0.05
        )

    def test_sees_no_constant_added_to_all_scores(self) -> None:
        student, teacher = arrays(5, 7)
        assert value(Logits(), CLASSES, teacher + np.arange(5)[:, None], teacher) == pytest.approx(0, abs=1e-12)
        assert value(Logits(), CLASSES, student, teacher) > 0.1


class TestOutputs:
    def bound(self, end: Ending, student: Array, teacher: Array, sample: Array) -> float:
        term = Outputs().bind(setting(end, y=sample))
        return term({"y": torch.tensor(student)}, {"y": torch.tensor(teacher)}, None).item()

    def test_is_the_squared_error_by_the_variance_of_the_first_batch(self) -> None:
        student, teacher, sample = arrays(4, 6, 3, count=3)
        expected = ((student - teacher) ** 2).mean() / sample.var()
        assert self.bound(NUMBERS, student, teacher, sample) == pytest.approx(expected, rel=1e-6)

    def test_is_one_for_a_student_that_knows_the_mean_alone(self) -> None:
        teacher = 100 + arrays(4, 6)[0]
        mean = np.full_like(teacher, teacher.mean())
        assert self.bound(NUMBERS, mean, teacher, teacher) == pytest.approx(1, rel=1e-6)

    def test_of_a_constant_output_is_relative_to_it(self) -> None:
        teacher = np.full((4, 1), 5.0)
        assert self.bound(NUMBERS, teacher + 1, teacher, teacher) == pytest.approx(1 / 25, rel=1e-6)

    def test_sees_no_unit(self) -> None:
        student, teacher = arrays(4, 6)
        assert self.bound(NUMBERS, student * 1e4, teacher * 1e4, teacher * 1e4) == pytest.approx(
            self.bound(NUMBERS, student, teacher, teacher), rel=1e-6
        )

    def test_of_several_outputs_is_their_mean(self) -> None:
        y, z = arrays(4, 6)
        other = Reading("z", "z")
        term = Outputs().bind(setting(NUMBERS, Ending("z", Kind.NUMBERS, other, other), y=y, z=z))
        values = {"y": torch.tensor(y), "z": torch.tensor(z)}
        far = {"y": torch.tensor(y + 1), "z": torch.tensor(z)}
        assert term(far, values, None).item() == pytest.approx(1 / y.var() / 2, rel=1e-6)


class TestAutomatic:
    def test_follows_what_each_ending_says(self) -> None:
        y, z, w, grid = (*arrays(4, 6, count=3), arrays(4, 1, 3, 3)[0])
        ends = [
            Ending(name, kind, Reading(name, name), Reading(name, name))
            for name, kind in (("y", Kind.CLASSES), ("z", Kind.FLAGS), ("w", Kind.NUMBERS), ("grid", Kind.FLAGS))
        ]
        given = setting(*ends, y=y, z=z, w=w, grid=grid)
        assert Automatic().chosen(given) == {"y": "kd", "z": "kd", "w": "outputs", "grid": "outputs"}
        values = {name: torch.tensor(array) for name, array in (("y", y), ("z", z), ("w", w), ("grid", grid))}
        far = {
            name: value + 0.3 * torch.arange(float(value.shape[1])).reshape(-1, *[1] * (value.ndim - 2))
            for name, value in values.items()
        }
        far["grid"] = values["grid"] * 1.5
        expected = (
            SoftTargets().ending(ends[0], far, values, None).item()
            + SoftTargets().ending(ends[1], far, values, None).item()
            + 10 * Outputs().ending(ends[2], far, values, None).item() / w.var()
            + 10 * Outputs().ending(ends[3], far, values, None).item() / grid.var()
        ) / 4
        assert Automatic().bind(given)(far, values, None).item() == pytest.approx(expected, rel=1e-6)

    def test_refuses_a_network_without_outputs_to_follow(self) -> None:
        with pytest.raises(UsageError, match="no output of this network can be followed"):
            Automatic().bind(setting(y=arrays(2, 2)[0]))


@pytest.mark.parametrize("loss", [SoftTargets(), HardLabels(), TeacherLabels(), Logits()])
def test_losses_of_classes_refuse_a_network_without(loss: OutputLoss) -> None:
    with pytest.raises(UsageError, match=f"loss `{loss.name}` compares scores of classes.*`auto` and `outputs`"):
        loss.bind(setting(NUMBERS, labelled=True, y=arrays(2, 2)[0]))


@pytest.mark.parametrize("end", [CLASSES, FLAGS])
@pytest.mark.parametrize(
    "loss", [SoftTargets(), SoftTargets(1.0), HardLabels(0.1), TeacherLabels(), Logits(), Outputs()]
)
def test_gradients(loss: OutputLoss, end: Ending) -> None:
    student, teacher = (torch.tensor(a) for a in arrays(4, 5))
    student.requires_grad_()
    labels = torch.tensor([0, 4, 2, 1])
    assert torch.autograd.gradcheck(lambda s: loss.ending(end, {"y": s}, {"y": teacher}, labels), (student,))


@pytest.mark.parametrize("loss", [SoftTargets(), HardLabels(), TeacherLabels(), Logits(), Outputs()])
def test_a_step_along_the_gradient_lowers_it(loss: OutputLoss) -> None:
    student, teacher = (torch.tensor(a) for a in arrays(4, 5))
    labels = torch.tensor([0, 4, 2, 1])
    student.requires_grad_()
    before = loss.ending(CLASSES, {"y": student}, {"y": teacher}, labels)
    before.backward()
    after = loss.ending(CLASSES, {"y": student.detach() - 0.1 * student.grad}, {"y": teacher}, labels)
    assert after < before

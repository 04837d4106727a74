"""Objectives of two networks: what they ask for, what they sum up, what they refuse, that they teach."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from lpcc.errors import DataError, ModelError, UsageError
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.losses import Objective  # noqa: E402
from lpcc.train.network import Network  # noqa: E402


def classifier(width: int, *, softmax: bool = False, output: str = "y") -> gs.Graph:
    """Two stages and a matrix; other widths have other weights, for they are filled by shape."""
    last = f"logits = Gemm(f, matrix, offset) {output} = Softmax(logits)" if softmax else ""
    last = last or f"{output} = Gemm(f, matrix, offset)"
    text = f"""
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,3,8,8] x) => (float[N,6] {output})
    <float[{width},3,3,3] first, float[{width * 2},{width},3,3] second, float[{width * 2},6] matrix, float[6] offset>
    {{
        a = Conv<pads=[1,1,1,1]>(x, first)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1], strides=[2,2]>(b, second)
        d = Relu(c)
        p = GlobalAveragePool(d)
        f = Flatten(p)
        {last}
    }}
    """
    return from_proto(read_model(text))


def networks(**student: Any) -> tuple[Network, Network]:
    return Network(classifier(student.pop("width", 4), **student)), Network(classifier(8), frozen=True)


def feeds(count: int = 16, seed: int = 0) -> dict[str, Any]:
    return {"x": torch.tensor(np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32))}


def loss(objective: Objective, student: Network, teacher: Network | None, batch: Any, labels: Any = None) -> Any:
    with torch.no_grad():
        taught = {} if teacher is None else teacher(batch, objective.teacher_taps)
    return objective(student(batch, objective.student_taps), taught, labels)


class TestOf:
    def test_asks_for_the_tensors_that_its_losses_read(self) -> None:
        student, teacher = networks(softmax=True)
        objective = Objective.of("kd+attention", student, teacher, feeds())
        assert objective.student_taps == ("logits", "b", "d")
        assert objective.teacher_taps == ("y", "b", "d")
        assert [(p.student, p.teacher) for p in objective.pairing.pairs] == [("b", "b"), ("d", "d")]

    def test_of_outputs_alone_pairs_nothing(self) -> None:
        objective = Objective.of("kd+logits", *networks(), feeds())
        assert objective.pairing.pairs == ()
        assert list(objective.parameters()) == []

    def test_holds_regressors(self) -> None:
        objective = Objective.of("hint", *networks(), feeds())
        assert [tuple(p.shape) for p in objective.parameters()] == [(8, 4), (8,), (16, 8), (16,)]

    def test_takes_pairs_that_are_given(self) -> None:
        student, teacher = networks()
        for pairs in ("d=c", ("d=c",)):
            objective = Objective.of("hint", student, teacher, feeds(), pairs=pairs)
            assert objective.teacher_taps == ("c",)
            assert objective.pairing.given

    def test_takes_arrays(self) -> None:
        student, teacher = networks()
        batch = {"x": feeds()["x"].numpy()}
        batch["x"].setflags(write=False)  # as data sets give them
        found = Objective.of("kd+hint", student, teacher, batch)
        assert loss(found, student, teacher, feeds())[0].item() > 0

    def test_without_a_teacher_learns_labels(self) -> None:
        student, _ = networks()
        objective = Objective.of("hard", student, None, feeds(), labels=True)
        assert objective.teacher_taps == ()
        labels = torch.arange(16) % 6
        total, parts = loss(objective, student, None, feeds(), labels)
        expected = torch.nn.functional.cross_entropy(student(feeds())["y"], labels)
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert list(parts) == ["hard"]

    def test_leaves_networks_in_the_mode_that_they_are_in(self) -> None:
        student, teacher = networks()
        for mode in (True, False):
            student.train(mode)
            Objective.of("kd+hint", student, teacher, feeds())
            assert student.training is mode

    def test_is_the_same_each_time(self) -> None:
        made = [Objective.of("kd+hint+order", *networks(), feeds()).state_dict() for _ in range(2)]
        assert made[0].keys() == made[1].keys()
        for name, value in made[0].items():
            assert torch.equal(value, made[1][name])

    @pytest.mark.parametrize(
        ("losses", "message"),
        [
            ("kdd", "unknown loss `kdd`.*known: attention, auto"),
            ("kd+features", "`b` has 4 channels where the teacher's `b` has 8: use `hint`|`d` has 8 channels"),
            ("kd+kd", "loss `kd` is given twice"),
            ("kd+hard", "loss `hard` needs labels"),
        ],
    )
    def test_refuses(self, losses: str, message: str) -> None:
        with pytest.raises(UsageError, match=message) as error:
            Objective.of(losses, *networks(), feeds())
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("losses", ["kd", "auto", "hard+hint", "outputs"])
    def test_refuses_to_compare_with_no_teacher(self, losses: str) -> None:
        with pytest.raises(UsageError, match="learns from a teacher, and there is none"):
            Objective.of(losses, networks()[0], None, feeds(), labels=True)

    def test_refuses_pairs_for_losses_that_have_none(self) -> None:
        with pytest.raises(UsageError, match=r"pairs are given, and none of the losses kd\+logits compares layers"):
            Objective.of("kd+logits", *networks(), feeds(), pairs="b")

    def test_refuses_networks_with_other_outputs(self) -> None:
        student, teacher = networks(output="z")
        with pytest.raises(ModelError, match="the student has no output `y`; student and teacher must have the same"):
            Objective.of("kd", student, teacher, feeds())

    def test_a_batch_without_labels_is_refused(self) -> None:
        student, teacher = networks()
        objective = Objective.of("kd+hard", student, teacher, feeds(), labels=True)
        with pytest.raises(DataError, match="loss `hard` needs labels, and a batch has none"):
            loss(objective, student, teacher, feeds())


def test_chosen_classes_are_followed_by_their_scores() -> None:
    body = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,3,8,8] x) => (int64[N,1,8,8] y{more}) <float[6,3,1,1] w, float[6] b>
    {{ z = Conv(x, w, b) y = ArgMax<axis=1>(z) }}
    """
    alone, both = (Network(from_proto(read_model(body.format(more=more)))) for more in ("", ", float[N,6,8,8] z"))
    for losses in ("auto", "kd", "labels"):
        assert Objective.of(losses, alone, alone, feeds()).student_taps == ("z",)
    assert Objective.of("outputs", both, both, feeds()).student_taps == ("z",)
    with pytest.raises(UsageError, match="none is of floating-point numbers"):
        Objective.of("outputs", alone, alone, feeds())


class TestForward:
    def test_sums_parts_by_weight(self) -> None:
        student, teacher = networks()
        objective = Objective.of("kd*0.7+attention*3+order", student, teacher, feeds())
        total, parts = loss(objective, student, teacher, feeds(seed=1))
        assert list(parts) == ["kd", "attention", "order"]
        expected = 0.7 * parts["kd"] + 3 * parts["attention"] + 10 * parts["order"]
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert not any(part.requires_grad for part in parts.values())

    def test_names_twins_by_their_options(self) -> None:
        student, teacher = networks()
        objective = Objective.of("kd+kd{temperature=1.0}", student, teacher, feeds())
        assert list(loss(objective, student, teacher, feeds())[1]) == ["kd", "kd{temperature=1.0}"]

    @pytest.mark.parametrize(
        "losses", ["auto", "kd", "logits", "outputs", "features", "hint", "attention", "correlation", "order"]
    )
    def test_is_nothing_for_a_student_that_is_its_teacher(self, losses: str) -> None:
        student, teacher = networks(width=8)
        found = loss(Objective.of(losses, student, teacher, feeds()), student, teacher, feeds(seed=1))[0].item()
        assert found == pytest.approx(0, abs=20 * 2e-3 if losses == "hint" else 1e-5)

    @pytest.mark.parametrize(
        ("losses", "softmax"),
        [
            ("auto", True),
            ("kd", True),
            ("hard", False),
            ("logits", True),
            ("labels", False),
            ("outputs", False),
            ("hint", False),
            ("attention", False),
            ("correlation", False),
            ("order", False),
            ("kd+hint+order*0.5", True),
        ],
    )
    def test_a_step_of_the_student_along_the_gradient_lowers_it(self, losses: str, softmax: bool) -> None:
        student, teacher = networks(softmax=softmax)
        batch, labels = feeds(), torch.arange(16) % 6
        objective = Objective.of(losses, student, teacher, batch, labels=True)
        before, _ = loss(objective, student, teacher, batch, labels)
        before.backward()
        with torch.no_grad():
            length = sum(p.grad.square().sum() for p in student.parameters() if p.grad is not None).sqrt()
            for parameter in student.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad / length
        assert loss(objective, student, teacher, batch, labels)[0] < before

    @pytest.mark.parametrize(
        "losses",
        ["auto", "hard", "logits", "labels", "outputs", "hint", "attention", "correlation", "order", "kd+hint"],
    )
    def test_training_lowers_it_on_other_samples_too(self, losses: str) -> None:
        student, teacher = networks()
        batches = [feeds(64, seed) for seed in range(2)]
        labels = [teacher(batch)["y"].argmax(1) for batch in batches]
        objective = Objective.of(losses, student, teacher, batches[0], labels=True)
        before = loss(objective, student, teacher, batches[1], labels[1])[0].item()
        optimiser = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            loss(objective, student, teacher, batches[0], labels[0])[0].backward()
            optimiser.step()
        assert loss(objective, student, teacher, batches[1], labels[1])[0].item() < 0.9 * before

    def test_compares_a_softmax_with_scores_as_scores(self) -> None:
        student, teacher = Network(classifier(4, softmax=True)), Network(classifier(8))
        objective = Objective.of("kd", student, teacher, feeds())
        plain = Network(classifier(4))
        expected = loss(Objective.of("kd", plain, teacher, feeds()), plain, teacher, feeds())[0]
        assert loss(objective, student, teacher, feeds())[0].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_moves_to_another_type_with_its_regressors(self) -> None:
        student, teacher = networks()
        objective = Objective.of("hint+outputs", student, teacher, feeds()).double()
        batch = {
            name: {k: v.double() for k, v in values.items()}
            for name, values in (
                ("s", student(feeds(), objective.student_taps)),
                ("t", teacher(feeds(), objective.teacher_taps)),
            )
        }
        assert objective(batch["s"], batch["t"])[0].dtype == torch.float64

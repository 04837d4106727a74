from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpcc.data import Dataset, TensorSpec
from lpcc.errors import DataError, ModelError, UsageError
from lpcc.train.history import History
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop import fit  # noqa: E402

Tensor = torch.Tensor
Values = Mapping[str, Tensor]
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def count_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices are counted on few samples, too: there are not many here."""
    monkeypatch.setattr("lpcc.train.loop.judging._COUNTED", 1)


class Net(torch.nn.Module):  # type: ignore[misc]
    """Two layers with a batch norm and dropout between them, and what it was called with."""

    def __init__(self, seed: int, drop: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.last = torch.nn.Linear(8, 24), torch.nn.BatchNorm1d(24), torch.nn.Linear(24, 4)
        self.drop = torch.nn.Dropout(drop)
        self.weights = {"first": self.first.weight, "last": self.last.weight}
        self.others = {
            "bias": self.first.bias,
            "scale": self.norm.weight,
            "shift": self.norm.bias,
            "end": self.last.bias,
        }
        self.seen: list[tuple[bool, int]] = []
        self.eval()

    def forward(self, feeds: Values, taps: tuple[str, ...] = ()) -> dict[str, Tensor]:
        x = feeds["x"].reshape(-1, 8)
        self.seen.append((self.training, len(x)))
        hidden = torch.relu(self.norm(self.first(x)))
        return {"y": self.last(self.drop(hidden))} | ({"hidden": hidden} if "hidden" in taps else {})


class Aim(torch.nn.Module):  # type: ignore[misc]
    """Squares of the difference, and of the hidden layers through a regressor of its own."""

    def __init__(self, hint: bool = False) -> None:
        super().__init__()
        self.student_taps = self.teacher_taps = ("hidden",) if hint else ()
        torch.manual_seed(5)
        self.regressor = torch.nn.Linear(24, 24) if hint else None
        self.counts: list[int] = []

    def forward(
        self, student: Values, teacher: Values, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.counts.append(len(student["y"]))
        parts = {}
        if teacher:
            parts["square"] = ((student["y"] - teacher["y"]) ** 2).mean()
        elif labels is not None:
            parts["hard"] = torch.nn.functional.cross_entropy(student["y"], labels)
        if self.regressor is not None:
            parts["hint"] = ((self.regressor(student["hidden"]) - teacher["hidden"]) ** 2).mean()
        return sum(parts.values()), parts


def samples(count: int = 300, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def dataset(count: int = 300, labels: bool = False) -> Dataset:
    x = samples(count)
    return Dataset.from_arrays({"x": x}, (x @ np.eye(8, 4)).argmax(1) if labels else None)


def weights(net: Net) -> str:
    """A hash of all that training changes."""
    return sha256(b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())).hexdigest()


def trained(
    recipe: Recipe, *, drop: float = 0.0, hint: bool = False, data: Dataset | None = None
) -> tuple[Net, History]:
    student = Net(1, drop)
    history = fit(student, Net(2), Aim(hint), data or dataset(), recipe)
    return student, history


SHORT = Recipe(optimiser="sgd", epochs=3, batch=32, learning_rate=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before, threads = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    assert threading.active_count() == threads


def test_the_student_comes_closer_to_its_teacher() -> None:
    student, history = trained(SHORT)
    assert (history.metric, history.samples, history.held_out) == ("agreement", 270, 30)
    assert [epoch.number for epoch in history.epochs] == [1, 2, 3]
    assert history.start is not None
    assert history.best > 0
    assert history.best_metric is not None
    assert history.best_metric > history.start
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert all(set(epoch.parts) == {"square"} for epoch in history.epochs)
    assert history.stopped.startswith("all epochs done")
    assert not history.failed
    assert not student.training


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_the_same_twice_in_a_row(optimiser: Any) -> None:
    recipe = Recipe(epochs=2, batch=32, optimiser=optimiser, average=0.9, holdout=0)
    (one, first), (other, second) = (trained(recipe, drop=0.3, hint=True) for _ in range(2))
    assert weights(one) == weights(other) != weights(Net(1, 0.3))
    for a, b in zip(first.epochs, second.epochs, strict=True):
        assert (a.loss, a.parts) == (b.loss, b.parts)
    assert weights(trained(Recipe(**{**recipe.to_json(), "seed": 1}), drop=0.3, hint=True)[0]) != weights(one)


def test_the_same_twice_in_a_row_by_two_threads() -> None:
    torch.set_num_threads(2)
    recipe = Recipe(optimiser="sgd", epochs=1, batch=32, holdout=0)
    one, other = (trained(recipe, hint=True, data=dataset(100))[0] for _ in range(2))
    assert weights(one) == weights(other) != weights(Net(1))


def test_nothing_of_what_a_program_draws_depends_on_it() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Net(1)
    torch.manual_seed(3)
    student, teacher, aim, data = Net(1), Net(2), Aim(), dataset()
    torch.manual_seed(3)
    fit(student, teacher, aim, data, SHORT)
    assert torch.equal(torch.rand(2), expected)


def test_the_end_is_the_best_of_the_epochs() -> None:
    """The rate is so high that later epochs are worse; the student is what it was after the best."""
    recipe = Recipe(optimiser="sgd", epochs=6, batch=32, learning_rate=0.6, schedule="constant", clip=0, seed=1)
    student, history = trained(recipe)
    metrics = [epoch.metric for epoch in history.epochs]
    assert history.best_metric == max(metric for metric in metrics if metric is not None)
    assert history.best < 6
    assert history.stopped == f"all epochs done; the weights of epoch {history.best} are kept, the best"
    x = torch.from_numpy(samples()[9::10])
    with torch.no_grad():
        same = student({"x": x})["y"].argmax(1) == Net(2)({"x": x})["y"].argmax(1)
    assert 100 * float(same.float().mean()) == pytest.approx(history.best_metric)


def test_never_worse_than_the_start() -> None:
    student, teacher = Net(2), Net(2)  # nothing to be learned
    before = weights(student)
    history = fit(student, teacher, Aim(), dataset(), Recipe(optimiser="sgd", epochs=2, batch=32, learning_rate=5))
    assert weights(student) == before
    assert (history.best, history.best_metric) == (0, 100.0)
    kept, _, advice = history.stopped.partition(": ")
    assert kept == "all epochs done; no epoch was better than the start, whose weights are kept"
    assert "norms=frozen" in advice


def test_a_student_that_always_chose_right_comes_closer_too() -> None:
    """Agreement has no room for better; the loss has."""
    student = Net(2)
    with torch.no_grad():
        student.last.bias += 0.5
    recipe = Recipe(optimiser="sgd", epochs=4, batch=32, learning_rate=0.01, momentum=0, norms="frozen")
    history = fit(student, Net(2), Aim(), dataset(), recipe)
    assert (history.start, history.best_metric) == (100.0, 100.0)
    assert history.best > 0
    assert history.start_loss is not None
    assert history.epochs[history.best - 1].held_out_loss < history.start_loss  # type: ignore[operator]


@pytest.mark.parametrize("holdout", [0.1, 0.0])
def test_a_student_that_is_nearly_right_learns_slowly(holdout: float) -> None:
    rates = []
    recipe = Recipe(optimiser="sgd", epochs=1, batch=32, schedule="constant", holdout=holdout)
    for noise in (0.005, 3.0):
        student = Net(2)
        with torch.no_grad():
            student.last.weight += noise * torch.from_numpy(samples(4, seed=7)).repeat(1, 3)
        history = fit(student, Net(2), Aim(), dataset(), recipe)
        rates.append(history.epochs[0].learning_rate)
    assert rates == pytest.approx([0.05 / 20, 0.05])


def test_ends_early_where_nothing_gets_better() -> None:
    history = fit(
        Net(2), Net(2), Aim(), dataset(), Recipe(optimiser="sgd", epochs=50, batch=32, learning_rate=1, patience=3)
    )
    assert len(history.epochs) == 3
    assert history.stopped.startswith(
        "3 epochs without a better agreement; no epoch was better than the start, whose weights are kept: "
    )


def test_samples_held_out_are_never_trained_on() -> None:
    x = samples()
    x[9::10] = 1e6  # would be heard
    _, history = trained(SHORT, data=Dataset.from_arrays({"x": x}))
    assert max(epoch.loss for epoch in history.epochs) < 1e3
    assert history.start_loss is not None
    assert history.start_loss > 1e6


def test_nothing_held_out_keeps_the_last_epoch() -> None:
    student, history = trained(Recipe(optimiser="sgd", epochs=2, batch=32, holdout=0))
    assert (history.held_out, history.metric, history.start, history.best) == (0, "", None, 2)
    assert history.samples == 300
    assert history.stopped == "all epochs done"
    assert weights(student) != weights(Net(1))


def test_batches_are_parts_of_a_step() -> None:
    """Without batch statistics parts of a step add up to it."""
    whole = Recipe(optimiser="sgd", epochs=1, batch=60, norms="frozen", holdout=0, clip=0, learning_rate=0.02)
    (one, _), (other, _) = trained(whole), trained(Recipe(**{**whole.to_json(), "at_once": 7}))
    assert {rows for training, rows in one.seen if training} == set()
    assert {rows for _, rows in other.seen} == {6, 7}
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_batch_norms_learn_where_batches_are_large_enough() -> None:
    large, small = trained(SHORT)[0], trained(Recipe(optimiser="sgd", epochs=1, batch=32, at_once=4))[0]
    few, _ = trained(Recipe(optimiser="sgd", epochs=1, batch=32, holdout=0.2), data=dataset(8))
    assert int(large.norm.num_batches_tracked) > 0
    assert int(small.norm.num_batches_tracked) == int(few.norm.num_batches_tracked) == 0


def test_a_fixed_batch_is_filled_up_with_what_does_not_count() -> None:
    fixed = Dataset.from_arrays({"x": samples(50)}, None, [TensorSpec("x", F32, (16, 8))])
    student, aim = Net(1), Aim()
    history = fit(
        student,
        Net(2),
        aim,
        fixed,
        Recipe(optimiser="sgd", epochs=1, batch=8, holdout=0.1, norms="frozen", clip=0, learning_rate=0.02),
    )
    assert {rows for _, rows in student.seen} == {16}
    assert sum(aim.counts) == 5 + 45 + 5
    free = Dataset.from_arrays({"x": samples(50)})
    other = Net(1)
    same = fit(
        other,
        Net(2),
        Aim(),
        free,
        Recipe(optimiser="sgd", epochs=1, batch=16, holdout=0.1, norms="frozen", clip=0, learning_rate=0.02),
    )
    assert history.epochs[0].loss == pytest.approx(same.epochs[0].loss, rel=1e-5)
    assert history.epochs[0].held_out_loss == pytest.approx(same.epochs[0].held_out_loss, rel=1e-5)
    torch.testing.assert_close(student.first.weight, other.first.weight, rtol=1e-4, atol=1e-6)


def test_inputs_without_a_sample_axis_run_one_by_one() -> None:
    inputs = [TensorSpec("x", F32, (2, 8)), TensorSpec("scalar", F32, ())]
    data = Dataset.from_arrays({"x": samples(60).reshape(30, 2, 8), "scalar": np.zeros(30, np.float32)}, None, inputs)
    student = Net(1)
    history = fit(student, Net(2), Aim(), data, Recipe(optimiser="sgd", epochs=1, batch=4))
    assert {rows for _, rows in student.seen} == {2}
    assert history.samples == 27


def test_pruned_weights_stay_zero_in_the_average_too() -> None:
    for average in (0.0, 0.9):
        student = Net(1)
        with torch.no_grad():
            student.first.weight[student.first.weight.abs() < 0.2] = 0
        zeros = student.first.weight.detach() == 0
        before = student.first.weight.detach().clone()
        fit(
            student,
            Net(2),
            Aim(),
            dataset(),
            Recipe(optimiser="sgd", epochs=2, batch=32, average=average, learning_rate=0.1),
        )
        assert torch.equal(student.first.weight == 0, zeros)
        assert not torch.equal(student.first.weight, before)


def test_the_average_is_what_is_judged_and_kept() -> None:
    plain, averaged = trained(SHORT), trained(Recipe(**{**SHORT.to_json(), "average": 0.9}))
    assert weights(plain[0]) != weights(averaged[0])
    assert [epoch.loss for epoch in plain[1].epochs] == [epoch.loss for epoch in averaged[1].epochs]
    assert plain[1].epochs[0].held_out_loss != averaged[1].epochs[0].held_out_loss
    student, history = averaged
    x = torch.from_numpy(samples()[9::10])
    with torch.no_grad():
        loss = float(((student({"x": x})["y"] - Net(2)({"x": x})["y"]) ** 2).mean())
    assert loss == pytest.approx(history.epochs[history.best - 1].held_out_loss, rel=1e-4)


def test_regressors_are_trained_and_decay() -> None:
    aim = Aim(hint=True)
    assert aim.regressor is not None
    before = aim.regressor.weight.detach().clone()
    student = Net(1)
    history = fit(student, Net(2), aim, dataset(), SHORT)
    assert set(history.epochs[0].parts) == {"square", "hint"}
    assert not torch.equal(aim.regressor.weight, before)


def test_labels_alone_without_a_teacher() -> None:
    student = Net(1)
    history = fit(
        student, None, Aim(), dataset(400, labels=True), Recipe(optimiser="sgd", epochs=4, batch=32, learning_rate=0.1)
    )
    assert history.metric == "top1"
    assert history.best_metric is not None
    assert history.best_metric > 75


class Images(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.last = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 4)
        self.weights, self.others = {"conv": self.conv.weight, "last": self.last.weight}, {"b": self.conv.bias}

    def forward(self, feeds: Values, taps: tuple[str, ...] = ()) -> dict[str, Tensor]:
        return {"y": self.last(torch.relu(self.conv(feeds["x"])).mean((2, 3)))}


class Labelled(torch.nn.Module):  # type: ignore[misc]
    """Cross entropy; keeps the labels that it was given."""

    student_taps = teacher_taps = ()

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(
        self, student: Values, teacher: Values, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert labels is not None
        self.given.append(labels)
        loss = torch.nn.functional.cross_entropy(student["y"], labels)
        return loss, {"hard": loss}


def images(count: int = 80) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_arrays({"x": rng.standard_normal((count, 3, 12, 12), np.float32)}, rng.integers(0, 4, count))


def test_the_loss_of_mixed_labels_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    aim = Labelled()
    recipe = Recipe(
        optimiser="sgd", epochs=1, batch=40, mix="mixup", holdout=0, at_once=20, learning_rate=0.02, flip=True, crop=2
    )
    history = fit(Images(1), Images(2), aim, images(40), recipe)
    own, theirs = torch.cat(aim.given[0::2]), torch.cat(aim.given[1::2])
    assert own.tolist() != theirs.tolist()
    assert sorted(own.tolist()) == sorted(theirs.tolist())
    assert history.epochs[0].parts["hard"] == pytest.approx(history.epochs[0].loss, rel=1e-6)


def test_held_out_images_are_not_mixed() -> None:
    aim = Labelled()
    history = fit(
        Images(1), None, aim, images(80), Recipe(optimiser="sgd", epochs=1, batch=40, mix="both", crop=1, holdout=0.5)
    )
    assert history.held_out == 40
    assert len(aim.given) == 1 + 2 + 1  # the start, both halves of a mixture, the epoch


def test_augmentation_is_for_images() -> None:
    with pytest.raises(UsageError, match=r"`flip` is for images; input `x` \[1, 8\] does not look like them"):
        fit(Net(1), Net(2), Aim(), dataset(), Recipe(flip=True))


class Breaks(Aim):
    """Gives `value` as the loss of one training step, or a gradient that is not finite."""

    def __init__(self, when: int, value: float) -> None:
        super().__init__()
        self.when, self.value, self.step = when, value, 0

    def forward(
        self, student: Values, teacher: Values, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().forward(student, teacher, labels)
        self.step += self.training
        if self.training and self.step == self.when:
            loss = loss * self.value if self.value != 0 else torch.sqrt(loss * 0)
        return loss, parts


@pytest.mark.parametrize(
    ("value", "problem"),
    [(float("nan"), "the loss is nan"), (float("inf"), "the loss is inf"), (0.0, "the gradient is not finite")],
)
def test_a_number_that_is_not_finite_ends_it_with_the_best_so_far(value: float, problem: str) -> None:
    steps = 9  # of 270 samples by 32
    student = Net(1)
    history = fit(student, Net(2), Breaks(2 * steps + 4, value), dataset(), SHORT)
    assert history.failed
    assert history.stopped == (
        f"{problem} in step 4 of epoch 3: training stopped, the weights of epoch {history.best} are kept; "
        "a lower learning rate may help"
    )
    assert len(history.epochs) == 2
    plain, two = trained(Recipe(**{**SHORT.to_json(), "epochs": 3}))
    assert [epoch.metric for epoch in two.epochs[:2]] == [epoch.metric for epoch in history.epochs]
    assert all(bool(torch.isfinite(parameter).all()) for parameter in student.parameters())
    assert weights(plain) != weights(student)


def test_nan_at_once_leaves_the_student_as_it_came() -> None:
    student = Net(1)
    before = weights(student)
    history = fit(student, Net(2), Breaks(3, float("nan")), dataset(), SHORT)
    assert weights(student) == before
    assert "in step 3 of epoch 1: training stopped, the weights that it came with are kept" in history.stopped
    assert history.epochs == []


def test_progress_tells_loss_metric_and_time() -> None:
    told: list[tuple[str, int, int]] = []
    fit(Net(1), Net(2), Aim(), dataset(), SHORT, progress=lambda *what: told.append(what))
    assert told.pop(0) == ("training: reading the samples", 0, 0)
    assert {total for _, _, total in told} == {27}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == 27
    assert told[0][0] == "training: epoch 1/3, judging the start"
    last = told[-1][0]
    assert last.startswith("training: epoch 3/3, loss 0.")
    assert "best agreement " in last
    assert "0:00 left" in last


def test_wrong_data_and_models_are_one_line() -> None:
    with pytest.raises(DataError, match=r"1 samples are too few to train on some .* give more, or holdout=0"):
        fit(Net(1), Net(2), Aim(), dataset(1), SHORT)
    frozen = Net(1)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="no weights that can be trained"):
        fit(frozen, Net(2), Aim(), dataset(), SHORT)
    with pytest.raises(UsageError, match="name its file"):
        fit(Net(1), Net(2), Aim(), dataset(), SHORT, resume=True)


def test_what_a_stream_raises_in_the_middle_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_stream_that_breaks.py").write_text(
        "import numpy as np\n"
        "passes = []\n"
        "def rows():\n"
        "    passes.append(1)\n"
        "    for part in range(40):\n"
        "        if part == 30 and len(passes) > 4:\n"
        "            raise OSError('the disk is gone')\n"
        "        yield {'x': np.full((4096, 8), part, np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = Dataset.open("a_stream_that_breaks:rows", [TensorSpec("x", F32, (None, 8))])
    with pytest.raises(DataError, match="raised OSError: the disk is gone"):
        fit(Net(1), Net(2), Aim(), data, Recipe(optimiser="sgd", epochs=9, batch=4096, buffer=1))

"""A training that is killed and taken up again ends with the bytes of one that never was.

Run as a program, this file is such a training: it prints a line for each step that it takes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpcc.data import Dataset
from lpcc.errors import UsageError
from lpcc.train.history import History
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.loop import fit  # noqa: E402

Tensor = torch.Tensor
Values = Mapping[str, Tensor]

EPOCHS, STEPS = 4, 27
STREAMED = Recipe(
    epochs=EPOCHS, batch=20, optimiser="adamw", average=0.9, flip=True, crop=2, mix="both", at_once=10, buffer=1
)
"""Everything at once. The images do not fit into the buffer: they are shuffled on their way."""
KEPT = Recipe(optimiser="sgd", epochs=EPOCHS, batch=20, holdout=0, patience=3)


class Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
        self.drop, self.last = torch.nn.Dropout(0.2), torch.nn.Linear(8, 5)
        with torch.no_grad():
            self.conv.weight[:, 1] = 0
        self.weights = {"conv": self.conv.weight, "last": self.last.weight}
        self.others = {"scale": self.norm.weight, "shift": self.norm.bias, "bias": self.last.bias}

    def forward(self, feeds: Values, taps: tuple[str, ...] = ()) -> dict[str, Tensor]:
        hidden = torch.relu(self.norm(self.conv(feeds["x"]))).mean((2, 3))
        return {"y": self.last(self.drop(hidden)), "hidden": hidden}


class Aim(torch.nn.Module):  # type: ignore[misc]
    student_taps = teacher_taps = ("hidden",)

    def __init__(self, on_step: Callable[[], None]) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.regressor = torch.nn.Linear(8, 8)
        self.on_step = on_step

    def forward(
        self, student: Values, teacher: Values, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            self.on_step()
        output = ((student["y"] - teacher["y"]) ** 2).mean() * 30
        hint = ((self.regressor(student["hidden"]) - teacher["hidden"]) ** 2).mean()
        return output + hint, {"output": output, "hint": hint}


def data(count: int = 600, seed: int = 0) -> Dataset:
    return Dataset.from_arrays(
        {"x": np.random.default_rng(seed).standard_normal((count, 3, 14, 14)).astype(np.float32)}
    )


def training(
    recipe: Recipe, on_step: Callable[[], None] = lambda: None, samples: Dataset | None = None, **options: Any
) -> tuple[str, History]:
    """Train; a hash of all weights, and the history without its times."""
    student = Net(1)
    history = fit(student, Net(2), Aim(on_step), samples or data(), recipe, **options)
    state = b"".join(tensor.numpy().tobytes() for tensor in student.state_dict().values())
    return sha256(state).hexdigest(), history


def facts(history: History) -> dict[str, Any]:
    found = history.to_json()
    for epoch in found["epochs"]:
        del epoch["seconds"]
    return found


def program(checkpoint: str, die_in_write: str) -> None:
    """Train by `STREAMED` and print a line for each step; die while the checkpoint of that number is written."""
    torch.set_num_threads(1)
    count, sync = 0, os.fsync

    def fsync(handle: int) -> None:
        nonlocal count
        count += 1
        if str(count) == die_in_write:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(handle)

    os.fsync = fsync
    print("begun", flush=True)
    weights, history = training(
        STREAMED, lambda: print("step", flush=True), checkpoint=Path(checkpoint), resume=True, every=0.01
    )
    print(weights, facts(history), flush=True)


if __name__ == "__main__":
    program(*sys.argv[1:])


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(checkpoint: Path, steps: int | None, die_in_write: int = 0) -> list[str]:
    """Run the program and kill it after so many lines (None: let it end); its lines."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(checkpoint), str(die_in_write)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    lines = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if steps is not None and len(lines) > steps:
                process.send_signal(signal.SIGKILL)
                break
    if steps is not None or die_in_write:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0
    return lines


def test_killed_in_the_middle_of_epochs_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    weights, history = training(STREAMED)
    assert len(history.epochs) == EPOCHS
    assert history.best > 0
    calls = 2 * STEPS * EPOCHS  # each step in two parts
    run(path, calls // 8)  # in the first epoch
    assert path.exists()
    first = run(path, None, die_in_write=4)  # while a checkpoint is written
    assert [left for left in tmp_path.iterdir() if left.suffix == ".tmp"]
    run(path, calls // 3)  # in the second or third
    last = run(path, None)
    assert last[-1] == f"{weights} {facts(history)}"
    assert first.count("step") > 0
    assert 0 < last.count("step") < calls * 7 // 8  # it did go on from where it was
    assert list(tmp_path.iterdir()) == [path]  # nothing half written is left


class StopError(Exception):
    pass


def stopped_after(calls: int) -> Callable[[], None]:
    left = calls

    def on_step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise StopError

    return on_step


@pytest.mark.parametrize("recipe", [STREAMED, KEPT])
@pytest.mark.parametrize("after", [1, 30, 75])
def test_stopped_at_any_step_it_ends_with_the_same_bytes(tmp_path: Path, recipe: Recipe, after: int) -> None:
    path = tmp_path / "run.ckpt"
    expected, history = training(recipe)
    assert history.best > 0
    with pytest.raises(StopError):
        training(recipe, stopped_after(after), checkpoint=path, every=0)
    found, again = training(recipe, checkpoint=path, resume=True, every=1000)
    assert found == expected
    assert facts(again) == facts(history)


def test_a_checkpoint_of_long_ago_is_good_too(tmp_path: Path) -> None:
    """Steps that were taken after it are taken again."""
    path = tmp_path / "run.ckpt"
    with pytest.raises(StopError):
        training(KEPT, stopped_after(70), checkpoint=path, every=1000)  # written at the ends of epochs alone
    assert torch.load(path, weights_only=True)["content"]["step"] == 0
    assert training(KEPT, checkpoint=path, resume=True)[0] == training(KEPT)[0]


def test_a_training_that_has_ended_gives_its_result_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    expected, history = training(STREAMED, checkpoint=path)
    found, again = training(STREAMED, stopped_after(0), checkpoint=path, resume=True)
    assert found == expected
    assert again == history


def test_a_checkpoint_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        training(KEPT, stopped_after(0), checkpoint=tmp_path / "no" / "run.ckpt")


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    training(KEPT, checkpoint=path)
    with pytest.raises(StopError):
        training(KEPT, stopped_after(5), checkpoint=path)


def test_it_goes_on_with_the_threads_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(StopError):
        training(KEPT, stopped_after(40), checkpoint=path, every=0)
    torch.set_num_threads(2)
    seen = set()
    expected, _ = training(KEPT, lambda: seen.add(torch.get_num_threads()), checkpoint=path, resume=True)
    assert seen == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert expected == training(KEPT)[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"recipe": Recipe(optimiser="sgd", epochs=5, batch=20, holdout=0, patience=3)},
            "of another recipe: epochs was 4, now it is 5",
        ),
        ({"samples": data(600, seed=1)}, "of other data"),
        ({"samples": data(601)}, "of other data"),
    ],
)
def test_another_training_is_refused_in_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.ckpt"
    training(KEPT, checkpoint=path)
    with pytest.raises(UsageError, match=f"run.ckpt: this checkpoint is {message}") as raised:
        training(**{"recipe": KEPT, **changed}, checkpoint=path, resume=True)
    assert "\n" not in str(raised.value)


def test_another_model_or_teacher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    training(KEPT, checkpoint=path)
    for student, teacher, message in ((Net(3), Net(2), "another model"), (Net(1), Net(3), "another teacher")):
        with pytest.raises(UsageError, match=f"this checkpoint is of {message}"):
            fit(student, teacher, Aim(lambda: None), data(), KEPT, checkpoint=path, resume=True)

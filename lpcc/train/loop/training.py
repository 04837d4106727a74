"""Training a student: steps, epochs, the best of them; taken up again after a kill where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import torch

from lpcc.data.dataset import Dataset
from lpcc.data.source import Block
from lpcc.errors import UsageError
from lpcc.train.history import Epoch, History, amount
from lpcc.train.loop.augment import Augment, Mixed
from lpcc.train.loop.average import Average, State, restore, state_of
from lpcc.train.loop.checkpoint import Checkpoint, Identity
from lpcc.train.loop.feeding import MEGABYTE, Supply, read_ahead
from lpcc.train.loop.judging import Judge, Verdict
from lpcc.train.loop.masks import Masks
from lpcc.train.loop.optimisers import groups_of, optimiser_of, step_of
from lpcc.train.loop.running import Device, Part, full, parts, repeatable, reseed
from lpcc.train.loop.schedule import Schedule
from lpcc.train.recipe import Recipe

Tensor = Any
Progress = Callable[[str, int, int], None]

_REPORT = 0.2
"""Seconds between two reports of progress, at least."""
_FINISHED = "all epochs done"


class Net(Protocol):
    """What a student or a teacher is: an nn.Module that gives outputs and hidden tensors by name."""

    weights: Mapping[str, Tensor]
    """Parameters that weight decay applies to, by name."""
    others: Mapping[str, Tensor]
    """Parameters that it does not apply to."""

    def __call__(self, feeds: Mapping[str, Tensor], taps: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """Outputs by name, and the hidden tensors named in `taps`."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Batch norms use the statistics of a batch and dropout drops, or not."""
        ...

    def to(self, device: str) -> Any:
        """Move to a device, in place."""
        ...


class Aim(Protocol):
    """What an objective is: an nn.Module that says how far a student is from where it should be."""

    student_taps: tuple[str, ...]
    teacher_taps: tuple[str, ...]

    def __call__(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a mean over samples, and its parts by name."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As of a network."""
        ...

    def to(self, device: str) -> Any:
        """As of a network."""
        ...


def fit(
    student: Net,
    teacher: Net | None,
    objective: Aim,
    data: Dataset,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    every: float = 60.0,
    progress: Progress = lambda _what, _done, _total: None,
) -> History:
    """Train a student in place by a recipe; it ends with the best weights that it had on the samples held out.

    These may be those that it came with: then no epoch was better, and the history says so. Labels, where the data has
    them, go to the objective. A number that is NaN or infinite ends the training before its time, with the best weights
    so far. The outcome is a function of the arguments and of torch's number of threads.

    With a `checkpoint` the training is written there every so many seconds (`every`) and after each epoch. With
    `resume` it is taken up from there, or begun where there is no such file yet; after a kill at any moment it ends
    with the same weights as if it had never been interrupted. It then runs on the number of threads that it began with.
    The file stays when the training has ended: taken up again, it gives the result at once.

    `progress` is told what is being done, with loss, metric and time left, the steps done and their number.

    Raises:
        UsageError: an option does not suit the data or the model, or the checkpoint is another training's or cannot be
            written.
        DataError: the data is wrong.
        ModelError: the student has no weights that can be trained.
    """
    if resume and checkpoint is None:
        raise UsageError("a training is taken up again from a checkpoint: name its file")
    device = Device.of(recipe)
    modules: list[Net | Aim] = [student, objective] if teacher is None else [student, objective, teacher]
    for module in modules:
        module.to(device.name)
    try:
        training = _Training(student, teacher, objective, data, recipe, device, progress)
        threads = torch.get_num_threads()
        if checkpoint is not None:
            training.checkpoint = Checkpoint(checkpoint, training.identity, every)
            saved = training.checkpoint.read() if resume else None
            if saved is not None:
                training.load(saved)
                threads = saved["threads"]
        with repeatable(threads, device.name):
            return training.run(threads)
    finally:
        for module in modules:
            module.train(False)
            module.to("cpu")


@dataclass
class _Sums:
    """What an epoch has summed up so far, over samples."""

    samples: int = 0
    loss: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, count: int, loss: float, pieces: Mapping[str, float]) -> None:
        """Take in a mean over `count` samples."""
        self.samples += count
        self.loss += loss * count
        for name, value in pieces.items():
            self.parts[name] = self.parts.get(name, 0.0) + value * count


class _Training:
    """A training between its steps: what a checkpoint holds is what changes here."""

    def __init__(
        self,
        student: Net,
        teacher: Net | None,
        objective: Aim,
        data: Dataset,
        recipe: Recipe,
        device: Device,
        progress: Progress,
    ) -> None:
        self.student, self.teacher, self.objective = student, teacher, objective
        if teacher is not None:
            teacher.train(False)
        self.recipe, self.device, self.progress = recipe, device, progress
        self.fixed, self.sampled = data.fixed_batch is not None and data.sampled, data.sampled
        batch = max(recipe.batch, data.fixed_batch or 1) if data.sampled else recipe.batch
        self.rows = 1 if not data.sampled else data.fixed_batch or min(recipe.at_once or batch, batch)
        self.optimiser = optimiser_of(recipe, *groups_of(student, objective))
        progress("training: reading the samples", 0, 0)
        self.supply = Supply(data, batch, recipe.holdout, recipe.seed, recipe.buffer * MEGABYTE)
        self.rate = recipe.rate(None)
        self.augment = self._augment(data)
        self.masks = Masks.of(student.weights)
        self.average = Average(student, recipe.average) if recipe.average else None
        self.identity = Identity.of(student, teacher, objective, self.supply.digest, recipe, device.name)
        self.checkpoint: Checkpoint | None = None

        held_out = self.supply.held_out
        self.judge = None if held_out is None else self._judge_by(held_out, recipe.metric)
        self.epoch, self.step = 1, 0  # the next ones
        self.sums = _Sums()
        self.best: State = state_of(student)
        self.verdict: Verdict | None = None  # of the best
        self.history = History("", False, self.supply.count, 0 if held_out is None else len(held_out), None, None)
        self._began, self._begun, self._reported = monotonic(), 0, -math.inf

    def run(self, threads: int) -> History:
        """Train to the end; the student then has the best weights."""
        self.threads = threads
        self._begun = self._done
        if self.judge is not None and self.verdict is None:
            self._tell("judging the start")
            self.verdict = verdict = self._judge(self.judge)
            self.history.start, self.history.start_loss = verdict.value, verdict.loss
            self.history.metric, self.history.higher_is_better = self.judge.name, self.judge.higher_is_better
        if self._done == 0:
            self.rate = self._find_rate()
        self.schedule = Schedule.of(self.recipe, self.supply.steps, self.rate)
        if self._done == 0:
            self._save()  # and find out now whether it can be written
        while not self.history.stopped:
            self._train()
            if not self.history.stopped:
                self._close()
            self._save()
        restore(self.student, self.best)
        return self.history

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """The steps of the epoch that are left; a number that is not finite ends the training."""
        self.student.train(self.recipe.trains_norms(min(self.rows, self.supply.count // self.supply.steps)))
        self.objective.train(True)
        with closing(read_ahead(self.supply.epoch(self.epoch, self.step))) as blocks:
            before = monotonic()
            for block in blocks:
                problem = self._take(block)
                if problem:
                    self._fail(problem)
                    return
                self.step += 1
                now = monotonic()
                self.sums.seconds += now - before
                before = now
                if self.checkpoint is not None and self.checkpoint.due and self.step < self.supply.steps:
                    self._save()
                self._tell()

    def _take(self, block: Block) -> str:
        """One step of the optimiser; what is wrong with it, if it could not be taken."""
        feeds, labels = self.device.tensors(block)
        mixed = Mixed(feeds) if self.augment is None else self.augment(feeds, self.epoch, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        count = len(block)
        cut = parts(mixed, labels, self.rows, fixed=self.fixed, sampled=self.sampled)
        for number, part in enumerate(cut):
            reseed(self.recipe.seed, self.epoch, self.step, number)
            _, _, loss, pieces = self._run(part, self.device)
            value = float(loss.detach())
            if not math.isfinite(value):
                return f"the loss is {value}"
            (loss * (part.count / count)).backward()
            self.sums.add(part.count, value, {name: float(piece.detach()) for name, piece in pieces.items()})
        if not step_of(self.optimiser, self.schedule(self._done), self.recipe.clip):
            return "the gradient is not finite"
        self.masks.apply()
        if self.average is not None:
            self.average.update()
        return ""

    def _run(
        self, part: Part, device: Device
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor, Mapping[str, Tensor]]:
        """Outputs of student and teacher for some samples, the loss on those that count, and its parts."""
        taught: Mapping[str, Tensor] = {}
        with device.lower():
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(part.feeds, self.objective.teacher_taps)
            learnt: Mapping[str, Tensor] = self.student(part.feeds, self.objective.student_taps)
        taught, learnt = full(part.valid(taught)), full(part.valid(learnt))
        loss, pieces = self.objective(learnt, taught, part.labels)
        if part.other_labels is not None:  # a mixture has the labels of both: the loss is mixed as they are
            second, others = self.objective(learnt, taught, part.other_labels)
            loss = loss * part.share + second * (1 - part.share)
            pieces = {name: piece * part.share + others[name] * (1 - part.share) for name, piece in pieces.items()}
        return learnt, taught, loss, pieces

    def _close(self) -> None:
        """End the epoch: judge it, keep it if it is the best, and see whether there is another one."""
        sums, verdict = self.sums, None
        if self.judge is not None:
            self._tell("judging")
            verdict = self._judge(self.judge)
        self.history.epochs.append(
            Epoch(
                self.epoch,
                sums.loss / sums.samples,
                {name: value / sums.samples for name, value in sums.parts.items()},
                self.schedule(self._done - 1),
                None if verdict is None else verdict.value,
                None if verdict is None else verdict.loss,
                sums.seconds,
            )
        )
        if self._is_better(verdict):
            self.verdict, self.history.best = verdict, self.epoch
            self.best = state_of(self.student) if self.average is None else _copy(self.average.state)
        patience = self.recipe.patience
        if self.epoch == self.recipe.epochs:
            self.history.stopped = self._ending(_FINISHED)
        elif patience is not None and self.judge is not None and self.epoch - self.history.best >= patience:
            waited = f"{patience} epochs" if patience > 1 else "an epoch"
            self.history.stopped = self._ending(f"{waited} without a better {self.history.metric}")
        self.epoch, self.step, self.sums = self.epoch + 1, 0, _Sums()

    def _judge_by(self, samples: Block, metric: str | None) -> Judge:
        return Judge(samples, metric, self.device, self.rows, fixed=self.fixed, sampled=self.sampled)

    def _find_rate(self) -> float:
        """The highest learning rate, which may depend on how far the student is from its teacher."""
        if self.recipe.learning_rate is not None or self.teacher is None:
            return self.recipe.rate(None)
        samples = self.supply.held_out
        if samples is None:
            samples = next(self.supply.epoch(1))
        return self.recipe.rate(self._judge(self._judge_by(samples, "sqnr")).value)

    def _judge(self, judge: Judge) -> Verdict:
        self.student.train(False)
        self.objective.train(False)
        exact = partial(self._run, device=replace(self.device, half=False))  # as it will be written
        with nullcontext() if self.average is None else self.average.in_place():
            return judge(exact)

    def _is_better(self, verdict: Verdict | None) -> bool:
        if verdict is None or self.verdict is None:  # nothing is held out: the last one counts
            return True
        return verdict.beats(self.verdict, higher=self.history.higher_is_better)

    def _ending(self, why: str) -> str:
        best = self.history.best
        if best == self.epoch:
            return why
        if best == 0:
            advice = "a lower learning-rate or norms=frozen may help"
            return f"{why}; no epoch was better than the start, whose weights are kept: {advice}"
        return f"{why}; the weights of epoch {best} are kept, the best"

    def _fail(self, problem: str) -> None:
        self.history.failed = True
        kept = f"the weights of epoch {self.history.best}" if self.history.best else "the weights that it came with"
        where = f"in step {self.step + 1} of epoch {self.epoch}"
        self.history.stopped = f"{problem} {where}: training stopped, {kept} are kept; a lower learning rate may help"

    # -- around it ----------------------------------------------------------------------------------------------------

    @property
    def _done(self) -> int:
        """Steps done in all epochs."""
        return (self.epoch - 1) * self.supply.steps + self.step

    def _augment(self, data: Dataset) -> Augment | None:
        arrays = next(data.blocks(1)).arrays
        floats = all(array.dtype.kind == "f" for array in arrays.values())
        return Augment.of(self.recipe, {name: array.shape for name, array in arrays.items()}, floats)

    def _tell(self, doing: str = "") -> None:
        """Report progress: where it is, the loss of the epoch, the metric so far, and the time left."""
        now = monotonic()
        if not doing and now - self._reported < _REPORT and self.step < self.supply.steps:
            return
        self._reported = now
        total = self.recipe.epochs * self.supply.steps
        words = [f"epoch {min(self.epoch, self.recipe.epochs)}/{self.recipe.epochs}"]
        if self.sums.samples:
            words.append(f"loss {self.sums.loss / self.sums.samples:.4g}")
        if self.verdict is not None:
            words.append(f"best {amount(self.history.metric, self.verdict.value)}")
        steps = self._done - self._begun
        if steps:
            words.append(f"{_clock((now - self._began) / steps * (total - self._done))} left")
        self.progress(f"training: {', '.join([*words, doing] if doing else words)}", self._done, total)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.write(
            {
                "threads": self.threads,
                "rate": self.rate,
                "epoch": self.epoch,
                "step": self.step,
                "sums": vars(self.sums),
                "student": state_of(self.student),
                "objective": state_of(self.objective),
                "optimiser": self.optimiser.state_dict(),
                "average": None if self.average is None else [self.average.steps, self.average.state],
                "best": self.best,
                "verdict": None if self.verdict is None else vars(self.verdict),
                "history": {**vars(self.history), "epochs": [vars(epoch) for epoch in self.history.epochs]},
            }
        )

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on from where a checkpoint was written."""
        self.rate = saved["rate"]
        self.epoch, self.step, self.sums = saved["epoch"], saved["step"], _Sums(**saved["sums"])
        restore(self.student, saved["student"])
        restore(self.objective, saved["objective"])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.average is not None:
            steps, state = saved["average"]
            self.average.load(state, steps)
        self.best = {name: tensor.to(self.device.name) for name, tensor in saved["best"].items()}
        self.verdict = None if saved["verdict"] is None else Verdict(**saved["verdict"])
        self.history = History.from_json(saved["history"])


def _copy(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

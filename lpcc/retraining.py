"""Retraining from end to end: a student, a teacher and images go in; the student with better weights comes out.

door -> the same interface? -> train (lpcc.train) -> what onnxruntime makes of it -> door
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from lpcc.door import files
from lpcc.errors import DataError, ModelError, UsageError
from lpcc.graph import clone, to_proto
from lpcc.job import Images, Model, open_model
from lpcc.report.plain import to_plain
from lpcc.train import require_torch
from lpcc.train.recipe import Recipe

if TYPE_CHECKING:
    from lpcc.data import Dataset
    from lpcc.quality import Metric
    from lpcc.runtime import Session
    from lpcc.train.transfer import Learned, Lesson

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scores:
    """A metric in onnxruntime on images that nothing was trained on."""

    metric: str
    samples: int
    teacher: float | None
    """None without a teacher, and for metrics that compare with it."""
    before: float
    after: float
    higher_is_better: bool

    @property
    def is_worse(self) -> bool:
        """Whether training did harm, by the metric."""
        return self.after < self.before if self.higher_is_better else self.after > self.before


@dataclass(frozen=True)
class Retrained:
    """A student with the weights that it learned, and how it learned them."""

    model: onnx.ModelProto
    learned: Learned
    lesson: Lesson
    recipe: Recipe
    scores: Scores | None
    """None where there were no images to judge on."""
    _sources: frozenset[Path] = field(default=frozenset(), repr=False)

    def save(self, path: str | Path, *, overwrite_input: bool = False) -> None:
        """Write the model, whole or not at all.

        Raises:
            UsageError: the path cannot be written, or is an input's and `overwrite_input` is not set.
        """
        path = Path(path)
        if not overwrite_input:
            files.refuse_input(path, *self._sources)
        files.write(self.model, path)

    @property
    def _decided(self) -> str:
        """Who said that these weights are the ones to keep."""
        history = self.learned.history
        if history is None:
            return f"`{self.lesson.trainer}` decides what is written"
        return (
            "the images held out say better" if history.held_out else "no images were held out, the last epoch counts"
        )

    def to_json(self) -> dict[str, Any]:
        """Losses, options, pairs, the course of the training and the scores, as plain JSON values."""
        history = self.learned.history
        return {
            "loss": self.lesson.losses,
            "trainer": self.lesson.trainer or None,
            "recipe": self.recipe.to_json(),
            "pairs": list(self.learned.pairing),
            "nodes": list(self.learned.nodes),
            "history": None if history is None else history.to_json(),
            "scores": to_plain(self.scores),
        }

    def lines(self) -> Iterator[str]:
        """The same as text."""
        from lpcc.train.history import amount

        for pair in self.learned.pairing:
            yield f"compared: {pair}"
        if self.learned.history is not None:
            yield from self.learned.history.lines()
        count = len(self.learned.nodes)
        yield f"trained: constants of {count} nodes" if count else "the weights are those that the student came with"
        if self.scores is not None:
            found = self.scores
            taught = "" if found.teacher is None else f"teacher {amount(found.metric, found.teacher)}, "
            yield (
                f"{taught}student before {amount(found.metric, found.before)}, after "
                f"{amount(found.metric, found.after)}, on {found.samples} images"
            )
            if found.is_worse:
                yield f"note: worse than before: {self._decided}"


def retrain(
    student: Model,
    *,
    train: Images,
    teacher: Model | None = None,
    labels: bool = False,
    loss: str = "auto",
    pairs: Sequence[str] = (),
    trainer: str = "",
    recipe: Recipe | None = None,
    eval: Images | None = None,  # noqa: A002 - the name of the command's option
    preprocess: str | Path | None = None,
    metric: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Retrained:
    """Train the weights of a model, in the graph itself, to do what another model does, or what labels say.

    Args:
        student: the model to train: a path, a model in memory or a graph. Its nodes stay as they are.
        train: images to train on: an .npz keyed by input names, arrays in memory by those names, a folder,
            ``module:function`` or a Dataset.
        teacher: the model that labels the images, with the same inputs and outputs. None: labels alone.
        labels: whether the labels of `train` count.
        loss: what is compared, in text form: ``kd*0.7+hint*0.1``; ``auto`` follows from the outputs, and from whether
            there are labels and a teacher. See docs/retraining.md.
        pairs: hidden tensors to compare, each ``student=teacher``; found where none are given.
        trainer: ``module:function`` that trains in the place of our loop.
        recipe: epochs, batch, optimiser and so on.
        eval: images that the student is judged on before and after, in onnxruntime.
        preprocess: TOML file that says how images become inputs.
        metric: how it is judged; ``top1`` where `eval` has labels, else agreement with the teacher, or SQNR for outputs
            that are no scores of classes.
        checkpoint: file that keeps the state of the training, for `resume` after it was interrupted.
        resume: whether to go on from `checkpoint`, if there is one.
        progress: called with a description, the steps done and the total (0 where unknown).

    Returns:
        The student with the best weights that it had on the images held out: its own, where training found none better.

    Raises:
        ModelError: a model is refused, cannot be trained, or student and teacher differ in inputs or outputs.
        DataError: the images are refused.
        UsageError: torch is not installed, or an option is wrong.
    """
    require_torch("training")
    from lpcc.runtime import Session
    from lpcc.train.transfer import Lesson, transfer

    recipe = Recipe() if recipe is None else recipe
    if teacher is None and not labels and not trainer:
        raise UsageError("nothing to learn from: give a teacher, or labels")
    if trainer and (loss != "auto" or pairs):
        raise UsageError(f"{trainer}: a loop of your own has its own losses: leave out `loss` and `pairs`")
    if trainer and resume:
        raise UsageError(f"{trainer}: a loop of your own leaves no state to resume from")
    if metric is not None and eval is None:
        raise UsageError(f"metric {metric} judges the images of `eval`, and there are none")
    graph, name, source = open_model(student)
    taught, taught_name, taught_source = (None, "", None) if teacher is None else open_model(teacher)
    before = to_proto(graph)
    sessions = {"student": _session(before, name)}
    if taught is not None:
        master = to_proto(taught)
        sessions["teacher"] = _session(master, taught_name)
        _check_interfaces(name, sessions["student"], taught_name, sessions["teacher"])
    data = _opened(train, sessions["student"], preprocess, labels_needed=labels)
    judged_on = None if eval is None else _opened(eval, sessions["student"], preprocess, labels_needed=False)
    exam = None if judged_on is None else _Exam.of(metric, before, judged_on, sessions)  # what fails, fails now
    lesson = Lesson(_losses(loss, labels=labels, teacher=taught is not None), tuple(pairs), trainer)
    trained = clone(graph)
    learned = transfer(
        trained,
        taught,
        data if labels else data.unlabelled(),
        lesson,
        recipe,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        resume=resume,
        progress=progress or (lambda _what, _done, _total: None),
    )
    result = to_proto(trained) if learned.nodes else before
    scores = None if exam is None else exam.scores(Session(result))
    sources = frozenset(path for path in (source, taught_source) if path is not None)
    return Retrained(result, learned, lesson, recipe, scores, sources)


def _losses(asked: str, *, labels: bool, teacher: bool) -> str:
    """The losses, with those of labels where they count and nothing was chosen."""
    if asked != "auto" or not labels:
        return asked
    return "auto+hard" if teacher else "hard"


def _session(model: onnx.ModelProto, name: str) -> Session:
    from lpcc.runtime import Session

    try:
        return Session(model)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _check_interfaces(student: str, ours: Session, teacher: str, theirs: Session) -> None:
    """Raise ModelError where student and teacher cannot take the same images or give comparable outputs."""
    from lpcc.runtime.spec import unlike

    for side, verb, mine, other in (
        ("inputs", "takes", ours.inputs, theirs.inputs),
        ("outputs", "gives", ours.outputs, theirs.outputs),
    ):
        found = unlike(mine, other)
        if found is not None:
            raise ModelError(
                f"{student}: {verb} {found[0]}, the teacher {teacher} {verb} {found[1]}: both must have the same {side}"
            )


def _opened(images: Images, session: Session, preprocess: str | Path | None, *, labels_needed: bool) -> Dataset:
    from lpcc.data import Dataset

    if isinstance(images, Dataset):
        return images.serving(session.inputs)
    recipe = None if preprocess is None else Path(preprocess)
    return Dataset.open(images, session.inputs, recipe, labels_needed=labels_needed)


def _metric(asked: str | None, student: onnx.ModelProto, data: Dataset, session: Session) -> Metric:
    """How to judge on `data`: as asked, or as labels and outputs suggest."""
    from lpcc.quality import class_outputs, parse_metric, scores

    if asked is not None:
        return parse_metric(asked)
    if data.labelled:
        return parse_metric("top1")
    outputs = session.run(dict(next(iter(data.batches(1))).feeds))
    chosen = any(scores(outputs[name]) is not None for name in class_outputs(student))  # maps of classes have no metric
    return parse_metric("agreement" if chosen else "sqnr")


@dataclass(frozen=True)
class _Exam:
    """A metric on images that nothing is trained on, with what teacher and student had before."""

    data: Dataset
    metric: Metric
    teacher: Session | None
    own: float | None
    before: float

    @classmethod
    def of(cls, asked: str | None, student: onnx.ModelProto, data: Dataset, sessions: dict[str, Session]) -> _Exam:
        """Judge the student as it comes; raises DataError or UsageError where it cannot be judged."""
        from lpcc.quality import evaluate

        teacher = sessions.get("teacher")
        metric = _metric(asked, student, data, sessions["student"])
        if metric.needs_reference and teacher is None:
            raise UsageError(f"metric {metric.name} compares with a teacher, and there is none: give labelled images")
        if metric.needs_labels and not data.labelled:
            raise DataError(f"{data.description}: has no labels, which {metric.name} needs")
        own = None if teacher is None or metric.needs_reference else evaluate(teacher, data, metric, None).value
        reference = teacher if metric.needs_reference else None
        return cls(data, metric, reference, own, evaluate(sessions["student"], data, metric, reference).value)

    def scores(self, result: Session) -> Scores:
        """The same for what became of the student."""
        from lpcc.quality import evaluate

        after = evaluate(result, self.data, self.metric, self.teacher)
        better = self.metric.higher_is_better
        return Scores(after.metric, after.samples, self.own, self.before, after.value, better)

"""From a student, a teacher and images to a trained student: what `distill` and `lpcc retrain` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch

from lpcc.data import Dataset
from lpcc.data.entry import user_function
from lpcc.errors import LpccError, PassError, UsageError
from lpcc.graph import to_proto
from lpcc.quality.tallies import Difference
from lpcc.runtime import Session
from lpcc.train.history import History
from lpcc.train.loop import fit
from lpcc.train.losses import Objective
from lpcc.train.network import Network
from lpcc.train.recipe import Recipe

Progress = Callable[[str, int, int], None]

_PAIRED_SAMPLES = 64
_CHECKED_SAMPLES = 8
_LEAST_DB = 20.0
"""Outputs in onnxruntime and in torch are closer than that, where what was trained is what was written.

Rounding to integers hides more than float32 does: numbers on the edge between two integers fall to either side.
"""


@dataclass(frozen=True)
class Lesson:
    """What is to be learned, and how."""

    losses: str = "auto"
    """Losses in text form, as `lpcc.train.losses.Objective` takes them."""
    pairs: tuple[str, ...] = ()
    """Pairs of hidden tensors, each ``student=teacher``; found where none are given."""
    trainer: str = ""
    """``module:function`` that trains in the place of our loop; empty: our loop."""


@dataclass(frozen=True)
class Learned:
    """What came of it."""

    nodes: tuple[str, ...]
    """Names of the nodes whose weights changed."""
    history: History | None
    """None where a user's function trained."""
    pairing: tuple[str, ...]
    """Which hidden tensors were compared, and why; a line for each."""


def transfer(
    student: gs.Graph,
    teacher: gs.Graph | None,
    data: Dataset,
    lesson: Lesson,
    recipe: Recipe,
    *,
    float_graph: gs.Graph | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda _what, _done, _total: None,
) -> Learned:
    """Train the weights of `student`, in place.

    Weights in integers start at those of `float_graph` where it has them. Labels count where `data` has them and a loss
    asks for them.

    Raises:
        UsageError: the losses or the recipe do not suit the networks or the data; the user's function does not return
            what it was given, or fails.
        DataError: the data is wrong.
        ModelError: a network holds what cannot be trained.
        PassError: onnxruntime makes something else of the trained weights than torch did: a bug of ours.
    """
    learner = Network(student, float_graph=float_graph)
    master = None if teacher is None else Network(teacher, frozen=True)
    history, pairing = None, tuple[str, ...]()
    if lesson.trainer:
        progress(f"training by {lesson.trainer}", 0, 0)
        learner = _by_user(lesson.trainer, learner, master, data, recipe)
    else:
        sample = next(iter(data.batches(_PAIRED_SAMPLES)))
        objective = Objective.of(
            lesson.losses, learner, master, _tensors(sample.feeds), pairs=lesson.pairs or None, labels=data.labelled
        )
        history = fit(learner, master, objective, data, recipe, checkpoint=checkpoint, resume=resume, progress=progress)
        pairing = tuple(objective.pairing.lines())
        if not history.best and history.held_out:
            return Learned((), history, pairing)
    nodes = tuple(learner.write(student))
    _check(learner, student, data)
    return Learned(nodes, history, pairing)


def _by_user(trainer: str, student: Network, teacher: Network | None, data: Dataset, recipe: Recipe) -> Network:
    """The student as the user's function leaves it."""
    function = user_function(trainer)
    try:
        trained = function(student, teacher, data, recipe)
    except LpccError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise UsageError(f"{trainer}: raised {type(error).__name__}: {error}") from error
    if trained is not None and trained is not student:
        raise UsageError(f"{trainer}: returned a {type(trained).__name__}, not the network that it was given")
    student.to("cpu")
    student.eval()
    for name, value in {**student.weights, **student.others}.items():
        if not bool(torch.isfinite(value).all()):
            raise UsageError(f"{trainer}: left numbers in `{name}` that are not finite")
    return student


def _check(network: Network, graph: gs.Graph, data: Dataset) -> None:
    """Raise PassError if onnxruntime does not compute what was trained."""
    batch = next(iter(data.batches(_CHECKED_SAMPLES)))
    with torch.no_grad():
        trained = network(_tensors(batch.feeds))
    found = Session(to_proto(graph), optimise=False).run(dict(batch.feeds))
    for name, value in trained.items():
        mine, theirs = value.float().numpy(), np.asarray(found[name])
        if theirs.dtype.kind != "f":
            continue
        difference = Difference()
        difference.add(theirs, mine)
        if not difference.sqnr_db >= _LEAST_DB:
            raise PassError(
                f"output `{name}` of the trained network is {difference.sqnr_db:.1f} dB from what was trained: "
                "a bug of lpcc's; nothing was written"
            )


def _tensors(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {name: torch.tensor(value) for name, value in feeds.items()}

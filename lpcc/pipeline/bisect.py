"""Finding the pass that broke a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from lpcc import equality
from lpcc.door import files
from lpcc.errors import LpccError, ModelError, UsageError
from lpcc.graph import clone, from_proto, to_proto
from lpcc.pipeline.base import Pass
from lpcc.pipeline.context import Context
from lpcc.pipeline.runner import run_pipeline


@dataclass(frozen=True)
class Culprit:
    """The first pass after which a model is broken: its place in the pipeline, and how the model is broken then."""

    index: int
    item: Pass
    problem: str


def bisect(
    model: onnx.ModelProto,
    passes: Sequence[Pass],
    ctx: Context,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    tolerance: float = equality.TOLERANCE,
) -> Culprit | None:
    """The first pass that breaks `model`, by binary search; None if the whole pipeline leaves it sound.

    Broken means: the pass raises, ONNX's checker or onnxruntime refuses the result, the interface changed, or an output
    differs from the original's by more than `tolerance` of its magnitude on `feeds` (random ones without). For
    approximate passes give a tolerance that they are meant to hold. The search takes a model that was broken once to
    stay broken; a later pass that repairs it by chance hides the culprit.

    Raises:
        ModelError: the model itself does not run on `feeds`.
    """
    from lpcc.runtime import Session

    values = dict(feeds) if feeds is not None else equality.random_feeds(model, ctx.seed)
    try:
        expected = Session(model, optimise=False).run(values)
    except ModelError as error:
        raise ModelError(f"the model does not run before any pass: {error}") from error
    passes = list(passes)
    problem = _problem(model, passes, ctx, expected, values, tolerance)
    if problem is None:
        return None
    sound, broken = 0, len(passes)  # the first `sound` passes are sound, the first `broken` ones are not
    while broken - sound > 1:
        middle = (sound + broken) // 2
        found = _problem(model, passes[:middle], ctx, expected, values, tolerance)
        if found is None:
            sound = middle
        else:
            broken, problem = middle, found
    return Culprit(broken - 1, passes[broken - 1], problem)


def _problem(
    model: onnx.ModelProto,
    passes: Sequence[Pass],
    ctx: Context,
    expected: Mapping[str, Any],
    feeds: Mapping[str, np.ndarray],
    tolerance: float,
) -> str | None:
    """How the model is broken after `passes`; None if it is sound."""
    from lpcc.runtime import Session

    graph = clone(from_proto(model))
    ctx.invalidate()
    try:
        run_pipeline(graph, passes, ctx)
        result = to_proto(graph)
        files.check(result, "the result")
        change = equality.interface_change(model, result)
        if change is not None:
            return change
        found = Session(result, optimise=False).run(feeds)
        name, distance = equality.largest_difference(expected, found)
    except UsageError:  # what the user asked for is wrong, and no pass
        raise
    except LpccError as error:
        return str(error)
    return None if distance <= tolerance else f"output `{name}` differs by {distance:.3g} of its magnitude"

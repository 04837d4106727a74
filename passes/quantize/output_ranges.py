"""Ranges by the error that they cause in the outputs of the layers that read a tensor.

With only that tensor quantised, the layers behind it are run on its values in some images, and the range is widened or
narrowed, as a whole and at each end, while what they give comes closer to what they gave in float:

    error = sum over readers of |reader(x) - reader(Q(x))|^2 / |reader(x)|^2

A reader is a layer with the activation behind it; what only moves values of the same scale is passed through. What is
added to or multiplied with other tensors counts as it is. Layer-wise objectives of this kind are those of Nagel et al.,
"Up or down?" (2020), section 3.3, and of Li et al., "BRECQ" (2021), there for weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx

from lpcc.calibrate.partial import Array, Feeds, Walk, order, part
from lpcc.passes.quantize.groups import Group, Interval, Quantized

_TAILS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish"})
STEPS = (1.3, 1.3**0.5)
"""By how much a range is widened and narrowed: by the first as long as that helps, then by the second."""

Choice = Mapping[tuple[str, ...], Interval]
"""Ranges by the tensors of a group."""
Progress = Callable[[int, int], None]


def refine_locally(
    model: onnx.ModelProto,
    groups: Sequence[Group],
    starts: Sequence[Choice],
    feeds: Feeds,
    progress: Progress = lambda _done, _total: None,
) -> dict[tuple[str, ...], Interval]:
    """For each group the range that disturbs its readers least, from the best of `starts` on.

    `model` is the float network.

    Raises:
        ModelError: onnxruntime cannot run some part of the network.
    """
    walk, made = Walk(model, feeds), order(model)
    found = {}
    ends = {group.tensors: max(made[name] for name in group.tensors) for group in groups}
    ordered = sorted(groups, key=lambda group: ends[group.tensors])
    for done, group in enumerate(ordered):
        progress(done, len(groups))
        waiting = {name for later in ordered[done:] for name in later.tensors}
        walk.to(*group.tensors, keep=waiting)
        candidates = distinct(group, starts)
        outputs = readers(model, group)
        held = [{name: values[name] for name in group.tensors} for values in walk.held]
        expected = _run(model, held, outputs)
        quantized = Quantized(model, group, held, outputs, threads=1)

        def error(interval: Interval, expected: Feeds = expected, quantized: Quantized = quantized) -> float:
            return _relative_error(expected, quantized.run(interval))

        found[group.tensors] = best_interval(group, candidates, error)[0]
    return found


def distinct(group: Group, starts: Sequence[Choice]) -> list[Interval]:
    """The ranges that `starts` have for a group, without those that come out the same."""
    intervals = [start.get(group.tensors, (group.low, group.high)) for start in starts] or [(group.low, group.high)]
    return list({group.params(interval): interval for interval in reversed(intervals)}.values())[::-1]


def best_interval(
    group: Group, candidates: Sequence[Interval], error: Callable[[Interval], float]
) -> tuple[Interval, float]:
    """The range of least error and that error: the best candidate, then by steps that go on while they help."""
    errors = [error(interval) for interval in candidates]
    place = int(np.argmin(errors))
    return descend(group, candidates[place], errors[place], error)


def descend(group: Group, start: Interval, least: float, error: Callable[[Interval], float]) -> tuple[Interval, float]:
    """The range of least error from one of error `least` on, and its error."""
    best = start
    params = group.params(best)
    moves: list[tuple[float, float]] = [(1.0, 1.0)]
    if params.low < 0 < params.high and not group.is_symmetric:
        moves += [(1.0, 0.0), (0.0, 1.0)]
    for step in STEPS:
        for move in moves:
            for ratio in (1 / step, step):
                moved = False
                while True:
                    tried = best[0] * ratio ** move[0], best[1] * ratio ** move[1]
                    if group.params(tried) == group.params(best) or not (found := error(tried)) < least:
                        break
                    best, least, moved = tried, found, True
                if moved:
                    break
    return best, least


def readers(model: onnx.ModelProto, group: Group) -> list[str]:
    """The tensors in which the error of a group is to be measured; one of the group itself counts as it is read."""
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in set(node.input):
            users.setdefault(name, []).append(node)
    returned = {info.name for info in model.graph.output}
    reach, outputs = set(group.tensors), dict[str, None]()
    waiting = list(group.tensors)
    while waiting:
        name = waiting.pop()
        for node in users.get(name, []):
            rest = [other for other in node.input if other not in constants and other not in reach]
            if len(node.output) and all(made in group.followers for made in node.output if made):
                fresh = [made for made in node.output if made and made not in reach]
                if not rest:
                    reach.update(fresh)
                    waiting += fresh
            elif node.attribute and any(item.HasField("g") for item in node.attribute):
                outputs.update((tensor, None) for tensor in group.tensors)
            elif rest:
                outputs[name] = None
            else:
                made = node.output[0]
                after = users.get(made, [])
                is_followed = len(after) == 1 and made not in returned and after[0].op_type in _TAILS
                if is_followed and all(other in constants for other in after[0].input[1:]):
                    made = after[0].output[0]
                outputs[made] = None
        if name in returned:
            outputs[name] = None
    return list(outputs) or list(group.tensors)


def _run(model: onnx.ModelProto, held: Feeds, outputs: Sequence[str]) -> list[dict[str, Array]]:
    """The outputs in float, feed by feed, of a model from some of its tensors on."""
    from lpcc.runtime import Session

    missing = [name for name in outputs if name not in held[0]]
    if not missing:
        return [{name: values[name] for name in outputs} for values in held]
    session = Session(part(model, missing, held))
    names = [spec.name for spec in session.inputs]
    return [
        {**{name: values[name] for name in outputs if name in values}, **session.run({n: values[n] for n in names})}
        for values in held
    ]


def _relative_error(expected: Feeds, found: Iterable[Mapping[str, Array]]) -> float:
    """Energy of the error relative to that of the signal, summed over the outputs of floating type."""
    signal: dict[str, float] = {}
    error: dict[str, float] = {}
    for reference, result in zip(expected, found, strict=True):
        for name, values in reference.items():
            if values.dtype.kind != "f":
                continue
            flat = values.ravel()
            difference = result[name].ravel() - flat
            signal[name] = signal.get(name, 0.0) + float(flat @ flat)
            error[name] = error.get(name, 0.0) + float(difference @ difference)
    shares = [error[name] / signal[name] for name in signal if signal[name] > 0]
    return sum(shares) if all(map(math.isfinite, shares)) else math.inf

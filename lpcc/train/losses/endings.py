"""How a network ends: for each output, what it says, and the tensors that say it before a softmax flattens them.

Knowledge of classes sits in the scores before the softmax, so these are looked for in the graph, behind whatever only
moves data. An output that is joined from several (scores beside boxes, as detectors have it) has one ending for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_graphsurgeon as gs
import torch
from torch import Tensor

from lpcc import edit
from lpcc.errors import UsageError
from lpcc.graph import to_proto
from lpcc.quality.classes import Classes, class_outputs

_MOVES = frozenset(
    {
        "Cast",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_LEAST_PROBABILITY = 1e-12
_SOFTMAX_ALONG_ONE_AXIS = 13
"""The opset from which Softmax is along one axis; before, it is over this axis and all that follow."""

Values = Mapping[str, Tensor]
"""Tensors of a network by name: its outputs, and hidden ones that were asked for."""


class Kind(Enum):
    """What an output says, and thereby which losses suit it."""

    CLASSES = "classes"  # one of several: scores that a softmax makes, or would make, probabilities
    FLAGS = "flags"  # each yes or no: scores before a sigmoid
    NUMBERS = "numbers"  # anything else: coordinates, depths, images


@dataclass(frozen=True)
class Reading:
    """Where one network says it: the tensor itself, and the one that holds the scores along `axis`.

    `joined` says that the axes after `axis` count as classes too, as Softmax had it before opset 13. `probabilities`
    says that `scores` holds these, so that their logarithms are to be taken.
    """

    tensor: str
    scores: str
    axis: int = 1
    joined: bool = False
    probabilities: bool = False

    def rows(self, values: Values) -> Tensor:
        """The scores as a matrix (samples or pixels or anchors, classes)."""
        scores = exact(values[self.scores])
        if self.probabilities:
            scores = scores.clamp_min(_LEAST_PROBABILITY).log()
        if self.joined:
            scores = scores.flatten(self.axis % scores.ndim)
            return scores.reshape(-1, scores.shape[-1])
        return scores.movedim(self.axis, -1).reshape(-1, scores.shape[self.axis])

    def numbers(self, values: Values) -> Tensor:
        """The tensor itself."""
        return exact(values[self.tensor])


@dataclass(frozen=True)
class Ending:
    """One thing that an output says, and where student and teacher say it; a teacher of None where there is none."""

    output: str
    kind: Kind
    student: Reading
    teacher: Reading | None

    @property
    def of_teacher(self) -> Reading:
        """Where the teacher says it; for losses that were bound with a teacher."""
        if self.teacher is None:
            raise UsageError(f"output `{self.output}` is compared with a teacher's, and there is none")
        return self.teacher


def exact(tensor: Tensor) -> Tensor:
    """In single precision at least: differences of half precision numbers are mostly rounding."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def endings(student: gs.Graph, teacher: gs.Graph | None) -> tuple[Ending, ...]:
    """The endings of a student and of a teacher with the same outputs, in the order of the outputs.

    Where the two are made so differently that their endings do not correspond, the output as a whole is one.
    """
    classes = class_outputs(to_proto(student if teacher is None else teacher))
    found: list[Ending] = []
    for output in student.outputs:
        ours = list(_traced(student, output))
        if teacher is None:
            theirs = ours
        else:
            theirs = list(_traced(teacher, next(t for t in teacher.outputs if t.name == output.name)))
        if [kind for kind, _ in ours] != [kind for kind, _ in theirs] or ours[0][0] is Kind.NUMBERS:
            ours, theirs = _as_whole(output.name, ours, theirs, classes.get(output.name))
        for (kind, reading), (_, other) in zip(ours, theirs, strict=True):
            found.append(Ending(output.name, kind, reading, None if teacher is None else other))
    return tuple(found)


def settled(found: tuple[Ending, ...], student: Values, teacher: Values) -> tuple[Ending, ...]:
    """The endings with what only values tell: which scores are probabilities, whether both sides have as many.

    `student` and `teacher` are of one batch, teacher empty where there is none. Where the scores of the two differ in
    number, the outputs, which are of one shape, are taken instead.
    """
    seen = []
    for ending in found:
        ours, theirs = _settled(ending.student, ending.kind, student), ending.teacher
        if theirs is not None:
            theirs = _settled(theirs, ending.kind, teacher)
        if ending.kind is Kind.NUMBERS and not student[ours.tensor].is_floating_point():
            continue  # indices and counts: nothing to follow
        if theirs is not None and ending.kind is not Kind.NUMBERS:
            differ = ours.rows(student).shape != theirs.rows(teacher).shape
            if differ and student[ours.tensor].is_floating_point():
                seen.append(Ending(ending.output, Kind.NUMBERS, ours, theirs))
                continue
        seen.append(Ending(ending.output, ending.kind, ours, theirs))
    return tuple(seen)


def _settled(reading: Reading, kind: Kind, values: Values) -> Reading:
    if kind is not Kind.CLASSES or reading.scores != reading.tensor:
        return reading
    with torch.no_grad():
        raw = values[reading.scores].float().movedim(reading.axis, -1)
        sums = raw.sum(-1)
        probabilities = bool((raw.min() >= 0) & torch.allclose(sums, torch.ones_like(sums), atol=1e-3))
    return Reading(reading.tensor, reading.scores, reading.axis, reading.joined, probabilities)


_Found = tuple[Kind, Reading]


def _traced(graph: gs.Graph, tensor: gs.Tensor) -> Iterator[_Found]:
    """What makes a tensor, seen through what only moves data, in the order in which a Concat joins it."""
    end = tensor.name
    while len(tensor.inputs) == 1:
        node = tensor.inputs[0]
        op = edit.op(node)
        if op == "Concat":
            parts = [part for joined in node.inputs for part in _traced(graph, joined)]
            constant = any(isinstance(t, gs.Constant) for t in node.inputs)
            if not constant and any(kind is not Kind.NUMBERS for kind, _ in parts):
                yield from parts
                return
            break
        source = edit.inp(node, 0)
        if source is None:
            break
        if op in ("Softmax", "LogSoftmax"):
            along_one = graph.opset >= _SOFTMAX_ALONG_ONE_AXIS
            axis = int(edit.attr(node, "axis", -1 if along_one else 1))
            yield Kind.CLASSES, Reading(end, source.name, axis, joined=not along_one)
            return
        if op == "ArgMax":
            kind, inner = next(_traced(graph, source))
            if kind is not Kind.CLASSES:
                inner = Reading(end, source.name, int(edit.attr(node, "axis", 0)))
            yield Kind.CLASSES, Reading(end, inner.scores, inner.axis, inner.joined)
            return
        if op == "Sigmoid":
            yield Kind.FLAGS, Reading(end, source.name)
            return
        if op not in _MOVES:
            break
        tensor = source
    yield Kind.NUMBERS, Reading(end, end)


def _as_whole(
    output: str, ours: list[_Found], theirs: list[_Found], told: Classes | None
) -> tuple[list[_Found], list[_Found]]:
    """The ending of an output as a whole, on both sides: scores where `told` so and nothing says otherwise."""
    kinds = {kind for kind, _ in (*ours, *theirs)}
    if told is None or told.axis is None or Kind.FLAGS in kinds or len(ours) > 1 or len(theirs) > 1:
        whole = [(Kind.NUMBERS, Reading(output, output))]
        return whole, whole
    scores = (Kind.CLASSES, Reading(output, output, told.axis))
    return [ours[0] if ours[0][0] is Kind.CLASSES else scores], [theirs[0] if theirs[0][0] is Kind.CLASSES else scores]

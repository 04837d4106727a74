"""Which layers of a student learn from which of its teacher: found by name, place, size and likeness, or given.

Compared are the ends of stages: the last layers of each size of feature maps, sums and concatenations before others,
and those that all else passes. A student's ends are laid along the teacher's layers so that depth grows in both,
which dynamic programming does with the highest total score. The score of two layers adds up

* likeness: linear centred kernel alignment of their activations on a batch, 0 to 1, which needs no equal width;
* size: 1 for feature maps of the same size, else half the ratio;
* place: 1 less the difference of their relative depths, and 1/2 more where both end a stage;
* name: 2 for the same name, where the two are the same network up to widths and number formats.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs
from torch import Tensor

from lpcc.errors import UsageError
from lpcc.train.pairing.layering import Layer, layers
from lpcc.train.pairing.likeness import Likeness, aligned
from lpcc.train.pairing.observing import observed

if TYPE_CHECKING:
    from lpcc.train.network import Network

_LIMIT = 4
_FEW = 3
"""Stages below which layers within them are paired as well."""
_SAMPLES = 32
_INPUT_VALUES = 1 << 21
"""Values that the inputs of the sample may have together: a network holds dozens of times as many."""
_RANKS = range(2, 6)
_TOKENS = 3
"""The rank of (samples, tokens, channels)."""
_SAME = 0.9
"""Share of layers of the same names from which two graphs are the same network."""
_LEAST_SCORE = 0.5


@dataclass(frozen=True)
class Pair:
    """A layer of the student and the one of its teacher that it learns from."""

    student: str
    teacher: str
    """Names of tensors."""
    student_axis: int = 1
    teacher_axis: int = 1
    """The axes of the channels."""
    student_shape: tuple[int, ...] = ()
    teacher_shape: tuple[int, ...] = ()
    """Channels and positions, without the batch."""
    likeness: float = 0.0
    """Linear CKA of the two before training, 0 to 1."""
    why: str = ""

    def __str__(self) -> str:
        student, teacher = (
            f"{name} ({'x'.join(map(str, shape))})"
            for name, shape in ((self.student, self.student_shape), (self.teacher, self.teacher_shape))
        )
        return f"{student} learns from {teacher}: {self.why}, likeness {self.likeness:.2f}"


@dataclass(frozen=True)
class Pairing:
    """The pairs from the input to the output, and whether the user gave them. Prints as a line for each."""

    pairs: tuple[Pair, ...] = ()
    given: bool = False

    @property
    def text(self) -> str:
        """The pairs as they can be given: ``student=teacher,student=teacher``."""
        return ",".join(f"{pair.student}={pair.teacher}" for pair in self.pairs)

    def lines(self) -> list[str]:
        """Which learns from which, and why; a line for each pair."""
        return [str(pair) for pair in self.pairs]

    def to_json(self) -> list[dict[str, Any]]:
        """The pairs as plain JSON values."""
        return [
            {
                "student": pair.student,
                "teacher": pair.teacher,
                "student_shape": list(pair.student_shape),
                "teacher_shape": list(pair.teacher_shape),
                "likeness": round(pair.likeness, 4),
                "why": pair.why,
            }
            for pair in self.pairs
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "no layers pair"


@dataclass(frozen=True)
class _Candidate:
    """A layer with its activations on the sample, (samples, channels, positions...)."""

    layer: Layer
    values: Tensor
    depth: float = 0.0
    """Relative: 1 is the deepest layer's."""

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(self.values.shape[2:])


def pair_layers(student: Network, teacher: Network, feeds: Mapping[str, Tensor], *, limit: int = _LIMIT) -> Pairing:
    """The pairs of two networks, at most `limit`, from the deepest on; `feeds` is a batch, of which a part is used.

    Networks that end no layer before their last, such as a single matrix, have no pairs.
    """
    sample = _sample(feeds)
    ours, theirs = _candidates(student, sample), _candidates(teacher, sample)
    our_ends, their_ends = _ends(ours), _ends(theirs)
    ends = {c.name for c in our_ends}, {c.name for c in their_ends}
    same = _same_network(ours, theirs)
    likeness = Likeness()

    def score(mine: _Candidate, other: _Candidate) -> float:
        if mine.values.ndim != other.values.ndim:
            return 0.0
        place = 1 - abs(mine.depth - other.depth) + 0.5 * (mine.name in ends[0] and other.name in ends[1])
        name = 2.0 * (same and mine.name == other.name)
        return likeness(mine.values, other.values) + _size_score(mine, other) + place + name - _LEAST_SCORE

    found = []
    for mine, other in aligned(_spread(ours, our_ends, limit), theirs, score):
        reasons = ["the same name"] if same and mine.name == other.name else []
        reasons += ["the same size"] if mine.positions and mine.positions == other.positions else []
        reasons += ["both end a stage"] if mine.name in ends[0] and other.name in ends[1] else []
        found.append(_pair(mine, other, likeness, ", ".join(reasons) or "their depths"))
    return Pairing(tuple(found))


def given_pairs(texts: str | Iterable[str], student: Network, teacher: Network, feeds: Mapping[str, Tensor]) -> Pairing:
    """The pairs that a text gives: ``student_tensor=teacher_tensor,...``, or texts of one each.

    One name alone is meant on both sides.

    Raises:
        UsageError: a name is no hidden tensor of its network, or holds no samples of floating-point channels.
    """
    items = texts.split(",") if isinstance(texts, str) else list(texts)
    text = ",".join(items)
    sample = _sample(feeds)
    names: list[tuple[str, str]] = []
    for item in items:
        ours, _, theirs = (part.strip() for part in item.partition("="))
        if not ours or "=" in theirs or ("=" in item and not theirs):
            raise UsageError(f"pairs `{text}`: `{item}` is no pair; write student_tensor=teacher_tensor,...")
        names.append((ours, theirs or ours))
    likeness = Likeness()
    mine = _named(text, "student", student, [ours for ours, _ in names], sample)
    others = _named(text, "teacher", teacher, [theirs for _, theirs in names], sample)
    pairs = (_pair(one, other, likeness, "given") for one, other in zip(mine, others, strict=True))
    return Pairing(tuple(pairs), given=True)


def _named(
    text: str, who: str, network: Network, names: Sequence[str], sample: Mapping[str, Tensor]
) -> list[_Candidate]:
    """The layers of given names."""
    made = _made(network.graph)
    for name in names:
        if name not in made:
            raise UsageError(f"pairs `{text}`: the {who} makes no hidden tensor `{name}`; {_hint(name, made)}")
    known = {layer.name: layer for layer in layers(network.graph)}
    values = observed(network, sample, names)
    found = []
    for name in names:
        value = values[name]
        if not _comparable(value, sample):
            shape = "x".join(map(str, value.shape))
            raise UsageError(
                f"pairs `{text}`: `{name}` of the {who} is no layer, which has samples, channels and maybe positions, "
                f"in floating point: it is {value.dtype} of {shape or 'no axes'}"
            )
        layer = known.get(name) or Layer(name, -1 if value.ndim == _TOKENS else 1, 0, cut=False)
        found.append(_Candidate(layer, value.movedim(layer.axis, 1)))
    return found


def _pair(mine: _Candidate, other: _Candidate, likeness: Likeness, why: str) -> Pair:
    shapes = [tuple(side.values.shape[1:]) for side in (mine, other)]
    alike = likeness(mine.values, other.values)
    return Pair(mine.name, other.name, mine.layer.axis, other.layer.axis, shapes[0], shapes[1], alike, why)


def _sample(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first samples of a batch, as many as are needed; the batch itself where it has no common first axis."""
    sizes = {len(value) if value.ndim else 0 for value in feeds.values()}
    if len(sizes) != 1 or 0 in sizes:
        return dict(feeds)
    (batch,) = sizes
    each = max(1, sum(value.numel() for value in feeds.values()) // batch)
    count = max(1, min(_SAMPLES, _INPUT_VALUES // each, batch))
    return {name: value[:count] for name, value in feeds.items()}


def _comparable(value: Tensor, sample: Mapping[str, Tensor]) -> bool:
    """Whether a tensor has samples first, channels, and floating-point values."""
    samples = {len(v) for v in sample.values() if v.ndim}
    return value.is_floating_point() and value.ndim in _RANKS and (not samples or len(value) in samples)


def _candidates(network: Network, sample: Mapping[str, Tensor]) -> list[_Candidate]:
    """The layers of a network to choose from: those that everything passes, if they reach its deeper half; else all."""
    found = layers(network.graph)
    if not found:
        return []
    deepest = max(layer.depth for layer in found)
    cuts = [layer for layer in found if layer.cut]
    if len(cuts) > 1 and max(layer.depth for layer in cuts) * 2 > deepest:
        found = cuts
    values = observed(network, sample, [layer.name for layer in found])
    latest: dict[tuple[object, ...], _Candidate] = {}
    for layer in found:
        value = values[layer.name]
        if _comparable(value, sample):
            value = value.float().movedim(layer.axis, 1)
            key = (layer.depth, tuple(value.shape[2:]))
            latest.pop(key, None)  # of branches of one depth, what joins them comes last
            latest[key] = _Candidate(layer, value, layer.depth / deepest)
    return list(latest.values())


def _ends(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The last of each run of layers with feature maps of one size; of those that others follow, the last that joins.

    A network of inverted bottlenecks makes its maps smaller within a block: what passes on is the sum before it.
    """
    runs = [list(run) for _, run in groupby(candidates, lambda candidate: candidate.positions)]
    joins = [[candidate for candidate in run if candidate.layer.joins] for run in runs[:-1]]
    return [(joined or run)[-1] for joined, run in zip([*joins, []], runs, strict=True)] if runs else []


def _spread(candidates: Sequence[_Candidate], ends: list[_Candidate], limit: int) -> list[_Candidate]:
    """The deepest of the ends of stages; where there are few, with layers between them, evenly in order."""
    chosen = ends[-limit:]
    wanted = min(_FEW, limit, len(candidates))
    if len(chosen) >= wanted:
        return chosen
    places = {round((index + 1) * len(candidates) / wanted) - 1 for index in range(wanted)}
    names = {candidates[place].name for place in places} | {end.name for end in chosen}
    return [candidate for candidate in candidates if candidate.name in names][-limit:]


def _same_network(ours: Sequence[_Candidate], theirs: Sequence[_Candidate]) -> bool:
    mine = {c.name: c.positions for c in ours}
    other = {c.name: c.positions for c in theirs}
    common = sum(other.get(name) == positions for name, positions in mine.items())
    return common >= _SAME * max(len(mine), len(other))


def _size_score(mine: _Candidate, other: _Candidate) -> float:
    if mine.positions == other.positions:
        return 1.0
    ours, theirs = mine.values[0, 0].numel(), other.values[0, 0].numel()
    return 0.5 * min(ours, theirs) / max(ours, theirs)


def _made(graph: gs.Graph) -> list[str]:
    """The tensors that the nodes of a graph make, except its outputs."""
    outputs = {t.name for t in graph.outputs}
    return [t.name for node in graph.nodes for t in node.outputs if t.name and t.name not in outputs]


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"it makes {len(known)}" + (f", such as `{known[0]}`" if known else "")

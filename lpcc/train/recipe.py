"""How a network is trained, in numbers: what the command, the pass and a program may choose.

No torch here: who only reads or prints a recipe needs none.
"""

from __future__ import annotations

import math
import types
import typing
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from lpcc.errors import UsageError
from lpcc.pipeline.base import Range
from lpcc.pipeline.syntax import describe

_LEARNING_RATE = {"sgd": 0.05, "adam": 5e-3, "adamw": 5e-3, "soap": 5e-3}
_LEAST_SHARE = 0.05
_FEWEST_ROWS = 8
"""Samples at a time below which the statistics of a batch say too little to normalise by."""


@dataclass(frozen=True)
class Recipe:
    """How long, how fast and on what a student is trained. Raises UsageError in one line for an option out of range.

    The defaults suit a network that a lossy pass has broken and that a few thousand images are to repair.
    """

    epochs: Annotated[int, Range(1, 100_000)] = 10
    """Times that the training samples are gone through."""
    batch: Annotated[int, Range(1, 1_000_000)] = 64
    """Samples for each step of the optimiser; at least as many as a model of fixed batch size takes."""
    at_once: Annotated[int, Range(1, 1_000_000)] | None = None
    """Samples that go through the network together, where `batch` of them take too much memory: gradients add up.

    None: the whole batch. A model of fixed batch size takes its own.
    """
    optimiser: Literal["sgd", "adam", "adamw", "soap"] = "adam"
    """Descent with momentum; Adam (Kingma & Ba 2015); Adam with decoupled decay (Loshchilov & Hutter 2019); SOAP (Vyas
    et al. 2024), which learns more of each step and takes longer for it.

    Adam suits weights and the steps of quantisers alike, whose gradients differ by orders of magnitude.
    """
    learning_rate: Annotated[float, Range(1e-9, 1e3)] | None = None
    """The highest rate of the schedule. None: by how far the student is from its teacher, see `rate`."""
    momentum: Annotated[float, Range(0, 0.9999)] = 0.9
    """Share of the last step in the next; the first beta of Adam and SOAP."""
    nesterov: bool = True
    """For sgd: look ahead along the momentum (Sutskever et al. 2013)."""
    weight_decay: Annotated[float, Range(0, 10)] = 1e-4
    """Pull of filters and matrices towards zero. Biases, norms, slopes and scales are left alone."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The rate after the warm-up: half a cosine down to zero (Loshchilov & Hutter 2017), or as it is."""
    warmup: Annotated[float, Range(0, 1000)] = 0.5
    """Epochs in which the rate rises in a line; of a short training at most a third."""
    clip: Annotated[float, Range(min=0)] = 5.0
    """Norm that the gradient of all parameters together is cut to; 0: not cut."""
    average: Annotated[float, Range(0, 0.99999)] = 0.0
    """Decay of the moving average of the weights, per step, which then is what is judged and kept; 0: none."""
    patience: Annotated[int, Range(1, 100_000)] | None = None
    """Epochs without a better metric after which training ends. None: it goes on."""
    holdout: Annotated[float, Range(0, 0.5)] = 0.1
    """Share of the samples that is never trained on, but tells which epoch was best. 0: the last epoch is kept."""
    metric: str | None = None
    """What tells the best epoch: ``loss``, or a metric of `lpcc.quality` such as ``top1``, ``agreement``, ``sqnr``.

    None: in class scores, with 100 samples held out or more, top1 with labels, else agreement with the teacher; with
    fewer the loss. Of other outputs sqnr against the teacher's, and the loss where there is none.
    """
    norms: Literal["auto", "train", "frozen"] = "auto"
    """Whether batch norms use and learn the statistics of batches. auto: where eight samples go together."""
    flip: bool = False
    """Images only: half of them are mirrored left to right."""
    crop: Annotated[int, Range(0, 256)] = 0
    """Images only: pixels by which they are shifted at most, each way; what is bare shows the image mirrored."""
    mix: Literal["none", "mixup", "cutmix", "both"] = "none"
    """Images only: blend pairs (Zhang et al. 2018), paste one into another (Yun et al. 2019), or either by turns."""
    mix_alpha: Annotated[float, Range(0.01, 100)] = 1.0
    """Shares of a mixture are drawn from Beta(alpha, alpha); 1: every share is as likely."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers in matrix products. auto: bfloat16 on a GPU that has it, float32 elsewhere."""
    buffer: Annotated[int, Range(1, 1_000_000)] = 256
    """Megabytes of samples to shuffle among; the samples held out may take as much again."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """The same seed gives the same weights on the same machine with the same number of threads."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OWN and not _accepts(hints[field.name], value):
                expected = describe(hints[field.name])
                name = field.name.replace("_", "-")
                raise UsageError(f"training option `{name}` takes {expected}, not `{value}`")

    @classmethod
    def of(cls, options: object, **others: Any) -> Recipe:
        """The recipe that an object with fields of the same names states, a pass for one; `others` are given here."""
        found = {field.name: getattr(options, field.name) for field in fields(cls) if hasattr(options, field.name)}
        return cls(**{**found, **others})

    def rate(self, sqnr_db: float | None) -> float:
        """The highest learning rate, for a student whose outputs have `sqnr_db` against its teacher's.

        Where none is stated, a student that knows nothing any more learns fast, and one that is nearly right is not led
        astray: with the power of noise N and signal S,

            rate = peak * min(1, max(1/20, N / S))      peak = 0.05 for sgd, 0.005 for the others

        The peak itself where the distance is not known (None).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        share = 1.0 if sqnr_db is None or math.isnan(sqnr_db) else 10 ** (-min(max(sqnr_db, 0.0), 100.0) / 10)
        return _LEARNING_RATE[self.optimiser] * max(share, _LEAST_SHARE)

    def trains_norms(self, rows: int) -> bool:
        """Whether batch norms learn from batches of `rows` samples."""
        return rows >= _FEWEST_ROWS if self.norms == "auto" else self.norms == "train"

    @property
    def augments(self) -> bool:
        """Whether samples are changed in ways that only images stand."""
        return self.flip or self.crop > 0 or self.mix != "none"

    def to_json(self) -> dict[str, Any]:
        """The options by name, plain values."""
        return asdict(self)


_OWN = frozenset(field.name for field in fields(Recipe))


def _accepts(annotation: Any, value: Any) -> bool:
    """Whether a value is of the type, among the choices and in the range that an annotation states."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(arg, value) for arg in args)
    if origin is Annotated:
        return _accepts(args[0], value) and all(value in bound for bound in args[1:] if isinstance(bound, Range))
    if origin is Literal:
        return value in args
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is annotation or (annotation is type(None) and value is None)

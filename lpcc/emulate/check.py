"""What the emulator says of a model: does it agree with this host, and what does it execute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lpcc.emulate.counts import Counts
from lpcc.emulate.emulator import Machine
from lpcc.errors import ModelError
from lpcc.quality import Comparison, compare_runs
from lpcc.runtime import Array, Session

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Check:
    """A model on the emulated processor."""

    agreement: Comparison
    """Its outputs against those of the same model on this host."""
    counts: Counts | None
    """Of a run on the first sample; None where instructions are not counted."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "agreement": self.agreement.to_json(),
            "instructions": None if self.counts is None else self.counts.to_json(),
        }


def check(machine: Machine, model: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> Check:
    """Run a model here and on the emulated processor on the same inputs, of one sample each.

    Raises:
        ModelError: either refuses the model or fails to run it; the message says which.
    """
    import onnxruntime

    session = Session(model)
    expected = [session.run(feeds) for feeds in samples]
    try:
        found = machine.runs(model, samples)
        counts = machine.count(model, samples[0]) if machine.counts else None
    except ModelError as error:
        raise ModelError(f"runs on this host (onnxruntime {onnxruntime.__version__}), but {error}") from None
    names = [spec.name for spec in session.outputs]
    runs = ((1, ours, theirs) for ours, theirs in zip(expected, found, strict=True))
    return Check(compare_runs(runs, names), counts)


def ratios(a: Counts, b: Counts) -> dict[str, float]:
    """Instructions of `b` by those of `a`: in all, those that multiply and accumulate, and the others."""
    pairs = {"total": (a.total, b.total), "mac": (a.mac, b.mac), "other": (a.other, b.other)}
    return {name: theirs / ours for name, (ours, theirs) in pairs.items() if ours}

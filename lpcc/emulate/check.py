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
    kernels: Comparison | None
    """The same where this host runs the graph that onnxruntime makes of the model there: only kernels differ then.

    The optimisers of the two builds may choose other graphs. None where this host lacks a kernel of that one."""
    counts: Counts | None
    """Of a run on the first sample; None where instructions are not counted."""

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "agreement": self.agreement.to_json(),
            "agreement_of_kernels": None if self.kernels is None else self.kernels.to_json(),
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
        graph = machine.optimized(model)
        counts = machine.count(model, samples[0]) if machine.counts else None
    except ModelError as error:
        raise ModelError(f"runs on this host (onnxruntime {onnxruntime.__version__}), but {error}") from None
    here = _runs_here(graph, samples)
    return Check(_agreement(expected, found), None if here is None else _agreement(here, found), counts)


def _agreement(expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> Comparison:
    runs = ((1, ours, theirs) for ours, theirs in zip(expected, found, strict=True))
    return compare_runs(runs, list(expected[0]))


def _runs_here(graph: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]] | None:
    """The outputs on this host of a graph that onnxruntime optimised; None where it lacks a kernel."""
    try:
        session = Session(graph, optimise=False)
        return [session.run(feeds) for feeds in samples]
    except ModelError:
        return None


def ratios(a: Counts, b: Counts) -> dict[str, float]:
    """Instructions of `b` by those of `a`: in all, those that multiply and accumulate, and the others."""
    pairs = {"total": (a.total, b.total), "mac": (a.mac, b.mac), "other": (a.other, b.other)}
    return {name: theirs / ours for name, (ours, theirs) in pairs.items() if ours}

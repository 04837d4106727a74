"""Steps over numbered slots: what a graph becomes before it is run. Nothing is looked up by name at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lpcc.errors import LpccError, ModelError
from lpcc.train.operators import Kernel, Unsupported


class Step(NamedTuple):
    """One node."""

    kernel: Kernel
    inputs: tuple[int, ...]
    """Slots of what the kernel is given; slot 0 holds None, for inputs that are missing."""

    outputs: int | tuple[int, ...]
    """Slot of the result; several where the kernel returns a tuple. Slot -1 takes what nobody reads."""

    dead: tuple[int, ...]
    """Slots that nobody reads afterwards."""


@dataclass(frozen=True)
class Plan:
    """Steps in order, with the slots that they start from and those that hold the results."""

    size: int
    """Number of slots."""

    given: tuple[int, ...]
    """Slots of what `run` is given, in this order."""

    steps: tuple[Step, ...]
    results: tuple[int, ...]
    labels: tuple[str, ...]
    """What each step is called in messages."""

    def run(self, given: Sequence[Any]) -> list[Any]:
        """Results for given values. Raises ModelError, naming the node, where one cannot run on what it is given."""
        slots: list[Any] = [None] * (self.size + 1)  # the last one, -1, is never read
        for slot, value in zip(self.given, given, strict=True):
            slots[slot] = value
        done = 0
        try:
            for kernel, inputs, outputs, dead in self.steps:
                result = kernel(*[slots[slot] for slot in inputs])
                if outputs.__class__ is int:
                    slots[outputs] = result
                else:
                    for slot, value in zip(outputs, result, strict=False):  # type: ignore[arg-type]
                        slots[slot] = value
                for slot in dead:
                    slots[slot] = None
                done += 1
        except Unsupported as why:
            raise ModelError(f"{self.labels[done]} cannot run: {why}") from None
        except LpccError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            raise ModelError(f"{self.labels[done]} cannot run: {' '.join(str(error).split())[:400]}") from error
        return [slots[slot] for slot in self.results]


def with_dead(steps: Sequence[Step], keep: Sequence[int]) -> tuple[Step, ...]:
    """The steps, each with the slots whose last reader it is, or that only it writes; not those of `keep`."""
    alive = {0, -1, *keep}
    found = []
    for step in reversed(steps):
        written = (step.outputs,) if isinstance(step.outputs, int) else step.outputs
        dead = tuple(slot for slot in dict.fromkeys((*step.inputs, *written)) if slot not in alive)
        alive.update(dead)
        found.append(step._replace(dead=dead))
    return tuple(reversed(found))

"""Control flow: If, Loop and Scan over bodies that are plans of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lpcc.train.network.plan import Plan
from lpcc.train.operators import Call, Kernel
from lpcc.train.tensors import is_narrow, tensor_of

Tensor = Any


@dataclass(frozen=True)
class Body:
    """A graph that a node runs: its plan, and where it takes what it reads of the graphs around it."""

    plan: Plan
    outer: tuple[int, ...]
    """Places, among what the node is given after its own inputs, of what the body reads from outside."""

    empty: tuple[Tensor, ...]
    """For each result a tensor without elements of its type and, as far as it is known, shape; None if it is not."""

    def run(self, arguments: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        """The results for its inputs and what all bodies of the node capture."""
        return self.plan.run([*arguments, *[captured[place] for place in self.outer]])


def nothing(dtype: Any, shape: Sequence[Any] | None) -> Tensor:
    """An empty stack of tensors of a type and shape; None where the type or the rank is not known."""
    if dtype is None or shape is None or dtype.kind == "O":
        return None
    sizes = [size if isinstance(size, int) else 0 for size in shape]
    like = torch.float32 if is_narrow(dtype) else tensor_of(torch.zeros(0).numpy().astype(dtype)).dtype
    return torch.empty((0, *sizes), dtype=like)


def lower_if(then: Body, other: Body) -> Kernel:
    """The kernel of an If: the results of one branch or the other."""

    def kernel(condition: Tensor, *captured: Any) -> Any:
        results = (then if bool(condition) else other).run((), captured)
        return results[0] if len(results) == 1 else results

    return kernel


def lower_loop(body: Body, inputs: int) -> Kernel:
    """The kernel of a Loop with so many inputs: carried values after the last turn, then what all turns gave."""
    carried = inputs - 2

    def kernel(*given: Any) -> Any:
        trips, condition, state = given[0], given[1], list(given[2:inputs])
        captured = given[inputs:]
        scans: list[list[Tensor]] = [[] for _ in body.plan.results[1 + carried :]]
        limit = None if trips is None else int(trips)
        goes, turn = condition is None or bool(condition), 0
        while goes and (limit is None or turn < limit):
            results = body.run((torch.tensor(turn), torch.tensor(True), *state), captured)
            goes = bool(results[0])
            state = results[1 : 1 + carried]
            for scan, value in zip(scans, results[1 + carried :], strict=True):
                scan.append(value)
            turn += 1
        results = [*state, *map(_stacked, scans, body.empty[1 + carried :])]
        return results[0] if len(results) == 1 else results

    return kernel


def lower_scan(call: Call, body: Body) -> Kernel:
    """The kernel of a Scan: a Loop over slices of its last inputs. Before opset 9 it scans each sample of a batch.

    Samples of different lengths, which only that old form has, it refuses when it runs.
    """
    first = 0 if call.opset >= 9 else 1  # the old form has the lengths of the samples first
    count = call.integer("num_scan_inputs", 1)
    carried = call.inputs - count - first
    scan = _Scan(
        body,
        carried,
        call.integers("scan_input_axes") or [0] * count,
        call.integers("scan_input_directions" if not first else "directions") or [0] * count,
        call.integers("scan_output_axes") or [0] * (len(body.plan.results) - carried),
        call.integers("scan_output_directions") or [0] * (len(body.plan.results) - carried),
    )

    def kernel(*given: Any) -> Any:
        captured = given[call.inputs :]
        if first == 0:
            results = scan.run(given[: call.inputs], captured)
        elif given[0] is not None:
            raise ValueError("the samples have lengths of their own")
        else:
            samples = [scan.run(sample, captured) for sample in zip(*given[1 : call.inputs], strict=True)]
            results = [torch.stack(values) for values in zip(*samples, strict=True)]
        return results[0] if len(results) == 1 else results

    return kernel


@dataclass(frozen=True)
class _Scan:
    """What a Scan is told by its attributes: axes to slice and stack along, and which of them are walked backwards."""

    body: Body
    carried: int
    in_axes: Sequence[int]
    in_backward: Sequence[int]
    out_axes: Sequence[int]
    out_backward: Sequence[int]

    def run(self, given: Sequence[Tensor], captured: Sequence[Any]) -> list[Tensor]:
        """The carried values after the last slice, then what all slices gave."""
        state = list(given[: self.carried])
        slices = [
            (tensor.flip(axis) if backward else tensor).unbind(axis)
            for tensor, axis, backward in zip(given[self.carried :], self.in_axes, self.in_backward, strict=True)
        ]
        scans: list[list[Tensor]] = [[] for _ in self.out_axes]
        for taken in zip(*slices, strict=True):
            made = self.body.run((*state, *taken), captured)
            state = made[: self.carried]
            for scan, value in zip(scans, made[self.carried :], strict=True):
                scan.append(value)
        ends = zip(scans, self.body.empty[self.carried :], self.out_axes, self.out_backward, strict=True)
        return state + [_stacked(scan[::-1] if back else scan, empty, axis) for scan, empty, axis, back in ends]


def _stacked(values: list[Tensor], empty: Tensor, axis: int = 0) -> Tensor:
    if values:
        return torch.stack(values, axis)
    if empty is None:
        raise ValueError("a loop without a turn gives a result whose type is not known")
    return empty.movedim(0, axis)

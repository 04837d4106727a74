"""The real aarch64 onnxruntime on this machine, emulated: outputs, optimised graphs, counts of instructions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.emulate.counts import Counts, KernelTally, Tally, without_profiler
from lpcc.emulate.cpu import Cpu, cpu_named
from lpcc.emulate.folder import Folder, qemu
from lpcc.emulate.plugin import plugin
from lpcc.emulate.process import Guest
from lpcc.errors import ModelError
from lpcc.runtime.session import MESSAGE_LIMIT, one_line, save_apart
from lpcc.runtime.spec import Array

if TYPE_CHECKING:
    import onnx

    Model = onnx.ModelProto | bytes | Path

TIMEOUT = 600.0
"""Seconds that a model may take for one sample, loading included."""

_CLOCKS_BEFORE, _CLOCKS_AFTER = 4, 5
"""How often onnxruntime 1.27 reads the clock in a profiled run before the first kernel, its start included, and after
the last one."""


@dataclass(frozen=True)
class Emulator:
    """What is needed to run aarch64 programs: QEMU and a folder with the arm64 runtime."""

    qemu: Path
    folder: Folder

    @staticmethod
    def find(folder: Path | None = None) -> Emulator:
        """The emulator with the runtime in `folder` (None: LPCC_EMULATOR's, else the user's cache).

        Raises:
            UsageError: QEMU or the runtime is missing; the message says how to get it.
        """
        found = Folder.default() if folder is None else Folder(folder.absolute())
        program = qemu()
        found.checked_python()
        return Emulator(program, found)

    def plugin(self) -> Path:
        """The counting plugin, compiled if need be.

        Raises:
            UsageError: it cannot be compiled.
        """
        return plugin(self.qemu)

    def machine(self, cpu: str) -> Machine:
        """An emulated processor that counts; use it with ``with``, for as many models as there are.

        Raises:
            UsageError: an unknown processor, or no counting plugin.
        """
        return Machine(self, cpu_named(cpu), self.plugin())

    def plain_machine(self, cpu: str) -> Machine:
        """An emulated processor that only computes: faster, and needs no C compiler.

        Raises:
            UsageError: an unknown processor.
        """
        return Machine(self, cpu_named(cpu), None)

    def count(
        self, models: Iterable[Model], cpu: str = "cortex-a72", feeds: Sequence[Mapping[str, Array]] | None = None
    ) -> list[Counts]:
        """Instructions of one warm run of each model, in one emulated process; see `each` for feeds.

        Raises:
            ModelError: the first model that cannot run, by its place in the list.
            UsageError: an unknown processor, or no counting plugin.
        """
        found = []
        for place, one in enumerate(self.each(models, cpu, feeds)):
            if isinstance(one, ModelError):
                raise ModelError(f"model {place}: {one}")
            found.append(one)
        return found

    def each(
        self, models: Iterable[Model], cpu: str = "cortex-a72", feeds: Sequence[Mapping[str, Array]] | None = None
    ) -> Iterator[Counts | ModelError]:
        """As `count`, one model at a time as they come, and the error in the place of a model that cannot run.

        `feeds` holds the inputs of each model; None: random ones. The process takes 2 to 9 s to start, a small model
        a tenth of a second.
        """
        with self.machine(cpu) as machine:
            given: Iterable[Mapping[str, Array] | None] = repeat(None) if feeds is None else feeds
            for model, one in zip(models, given, strict=feeds is not None):
                try:
                    yield machine.count(model, one)
                except ModelError as error:
                    yield error

    def run(self, model: Model, feeds: Mapping[str, Array], cpu: str = "cortex-a72") -> dict[str, Array]:
        """The outputs of a model by name; see `Machine.run`."""
        with self.plain_machine(cpu) as machine:
            return machine.run(model, feeds)

    def optimized(self, model: Model, cpu: str = "cortex-a72") -> onnx.ModelProto:
        """The graph that onnxruntime executes for a model on that processor; see `Machine.optimized`."""
        with self.plain_machine(cpu) as machine:
            return machine.optimized(model)


class Machine:
    """An emulated processor with a Python and onnxruntime that stay up between calls, one thread.

    A process that a model crashed is started anew for the next. `timeout` is in seconds, for each sample.
    """

    def __init__(self, emulator: Emulator, cpu: Cpu, plugin: Path | None, timeout: float = TIMEOUT) -> None:
        self.cpu = cpu
        self.timeout = timeout
        self._emulator = emulator
        self._plugin = plugin
        self._guest: Guest | None = None
        self._idle: Counts | None = None

    @property
    def onnxruntime(self) -> str:
        """The version of the emulated onnxruntime."""
        return str(self._emulator.folder.onnxruntime)

    @property
    def counts(self) -> bool:
        """Whether it counts instructions."""
        return self._plugin is not None

    def count(self, model: Model, feeds: Mapping[str, Array] | None = None) -> Counts:
        """Instructions of one warm run, on random inputs where `feeds` is None.

        They include what Python and onnxruntime spend around the kernels. Repeatable within 0.03 %. Raises ModelError
        when the model cannot run.
        """
        _, marks = self._ask(model, [_feeds(model, feeds)], {"count": "run"})
        return Counts(_stop(marks).classes)

    def count_bound(self, model: Model, feeds: Mapping[str, Array] | None = None) -> Counts:
        """As `count`, with inputs and outputs that stay in onnxruntime: what Python spends is always the same."""
        _, marks = self._ask(model, [_feeds(model, feeds)], {"count": "bound"})
        return Counts(_stop(marks).classes)

    def count_kernels(self, model: Model, feeds: Mapping[str, Array] | None = None) -> Counts:
        """As `count`, with the instructions of each kernel; runs the model twice as often.

        Kernels and `idle` together make the total. onnxruntime's profiler marks the kernels; what it does itself is
        taken off in the mean, which leaves an error of some hundred instructions in each. Raises ModelError when the
        model cannot run, or has kernels within kernels (If, Loop, Scan).
        """
        given = _feeds(model, feeds)
        total = self.count(model, given)
        reply, marks = self._ask(model, [given], {"count": "kernels"})
        spans = [tally for mark, tally in marks if mark == "clock"]
        if not reply["kernels"]:
            return total
        if len(spans) != _CLOCKS_BEFORE + 2 * len(reply["kernels"]) - 1 + _CLOCKS_AFTER:
            raise ModelError(
                f"{len(reply['kernels'])} kernels with {len(spans)} readings of the clock: kernels cannot be counted "
                f"one by one in a model with subgraphs, or in onnxruntime {self.onnxruntime}"
            )
        tensors = [kernel["tensors"] for kernel in reply["kernels"]]
        tallies = without_profiler(spans[_CLOCKS_BEFORE::2][: len(tensors)], tensors, total, self.idle())
        kernels = (
            KernelTally(tally.classes, kernel["name"], kernel["op"])
            for tally, kernel in zip(tallies, reply["kernels"], strict=True)
        )
        return Counts(total.classes, tuple(kernels))

    def idle(self) -> Counts:
        """Instructions of a run that computes next to nothing: what Python and onnxruntime spend on any inference."""
        if self._idle is None:
            self._idle = self.count(_idle_model(), {"x": np.ones(1, np.float32)})
        return self._idle

    def run(self, model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name; those that are no tensors are left out. Raises ModelError when the model cannot run."""
        return self.runs(model, [feeds])[0]

    def runs(self, model: Model, samples: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """As `run`, for inputs one after another in one onnxruntime session."""
        paths = [self._path(f"outputs{i}.npz") for i, _ in enumerate(samples)]
        reply, _ = self._ask(model, samples, {"outputs": [str(path) for path in paths]})
        found = []
        for path in paths:
            with np.load(path, allow_pickle=False) as arrays:
                found.append({name: arrays[f"o{i}"] for i, name in enumerate(reply["outputs"]) if f"o{i}" in arrays})
            path.unlink()
        return found

    def optimized(self, model: Model) -> onnx.ModelProto:
        """The graph that onnxruntime executes for a model here, all its optimisations on.

        The result is for reading: onnx.checker knows few of its operators. Raises ModelError when onnxruntime refuses
        the model.
        """
        import onnx

        path = self._path("optimised.onnx")
        self._ask(model, [], {"optimised": str(path)})
        return onnx.load(path)

    def close(self) -> None:
        """End the emulated process, if one runs."""
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> Guest:
        """The process, started if there is none."""
        if self._guest is not None and not self._guest.alive:
            self.close()
        if self._guest is None:
            self._guest = Guest(self._emulator.qemu, self._emulator.folder, self.cpu, self._plugin)
        return self._guest

    def _path(self, name: str) -> Path:
        return self._live().folder / name

    def _ask(
        self, model: Model, samples: Sequence[Mapping[str, Array]], request: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[tuple[str, Tally]]]:
        guest = self._live()
        paths = [str(guest.folder / f"sample{i}.npz") for i, _ in enumerate(samples)]
        for path, feeds in zip(paths, samples, strict=True):
            _write_feeds(path, feeds)
        files = {"model": str(_written(model, guest.folder / "model.onnx")), "samples": paths}
        try:
            return guest.ask({**files, **request}, self.timeout * max(1, len(samples)))
        except ModelError as error:
            raise ModelError(f"onnxruntime {self.onnxruntime} for aarch64: {one_line(error)}") from None


def _stop(marks: Sequence[tuple[str, Tally]]) -> Tally:
    return next(tally for mark, tally in marks if mark == "stop")


def _idle_model() -> onnx.ModelProto:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "idle", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _write_feeds(path: str, feeds: Mapping[str, Array]) -> None:
    for name, array in feeds.items():
        if array.dtype.kind not in "biufc":
            raise ModelError(f"input `{name}` is of type {array.dtype}, which the emulator is not given: numbers only")
    np.savez(path, allow_pickle=False, **feeds)


def _written(model: Model, path: Path) -> Path:
    """The file of a model, which is `path` unless it has one."""
    if isinstance(model, Path):
        return model.resolve()
    if isinstance(model, bytes):
        path.write_bytes(model)
    elif model.ByteSize() < MESSAGE_LIMIT:
        path.write_bytes(model.SerializeToString())
    else:
        save_apart(model, path)
    return path


def _feeds(model: Model, feeds: Mapping[str, Array] | None) -> Mapping[str, Array]:
    """The inputs given, else random ones."""
    if feeds is not None:
        return feeds
    import onnx

    from lpcc import equality

    if isinstance(model, Path):
        return equality.random_feeds(onnx.load(model, load_external_data=False))
    return equality.random_feeds(onnx.load_from_string(model) if isinstance(model, bytes) else model)

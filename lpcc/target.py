"""What a target is: a device, its runtime and its numbers, read from a TOML file.

Built-in targets live in ``lpcc.targets``; a user's own file works like one of them, and so does a plugin's
(entry-point group ``lpcc.targets``). docs/target-files.md describes the keys; the dataclasses below are the schema.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from lpcc.cost.datapath import Datapath
from lpcc.cost.eie import Eie
from lpcc.cost.ethos_u import EthosU
from lpcc.cost.footprint import Footprint
from lpcc.cost.kinds import ELEMENT_KINDS, FORMATS, INSTRUCTIONS, MAC_KINDS
from lpcc.cost.machine import Machine
from lpcc.cost.processor import Processor
from lpcc.cost.row_stationary import RowStationary
from lpcc.cost.table import KernelTable
from lpcc.errors import UsageError
from lpcc.schema import Bound, Names, build, unknown

Runtime = Literal["onnxruntime", "ncnn", "tflite", "cmsis-nn", "x-cube-ai", "vela", "none"]
"""Whose kernels run the network (``lpcc.analysis.runtimes``); ``none``: an accelerator with its own compiler."""

Positive = Annotated[float, Bound(above=0)]
NonNegative = Annotated[float, Bound(least=0)]
Count = Annotated[int, Bound(above=0)]
MacKind = Annotated[str, Names(MAC_KINDS)]
ElementKind = Annotated[str, Names(ELEMENT_KINDS)]
Format = Annotated[str, Names(FORMATS)]


@dataclass(frozen=True)
class Core:
    """The processor core that runs the network."""

    name: str
    clock_ghz: Positive
    cores: Count


@dataclass(frozen=True)
class Memory:
    """Sizes in KiB, bandwidths in GB/s (10^9 bytes) as one thread sees them.

    A CPU states its caches, a microcontroller its SRAM (activations) and flash (weights and code).
    """

    bandwidth_gbps: Positive
    cache_bandwidth_gbps: Positive | None = None
    l1_kib: Count | None = None
    l2_kib: Count | None = None
    l3_kib: Count | None = None
    sram_kib: Count | None = None
    flash_kib: Count | None = None

    @property
    def cache_kib(self) -> int:
        """The last cache before main memory, 0 where there is none."""
        return max(self.l1_kib or 0, self.l2_kib or 0, self.l3_kib or 0)


@dataclass(frozen=True)
class Energy:
    """Energy = active_watts x latency + pj_per_mac x MACs + pj_per_byte x bytes read and written.

    On CPUs and microcontrollers the first term alone meets measurements within some 5 %; the others are for
    accelerators.
    """

    active_watts: NonNegative = 0.0
    pj_per_mac: Mapping[Format, NonNegative] = field(default_factory=dict)
    pj_per_byte: NonNegative = 0.0


@dataclass(frozen=True)
class Overhead:
    """Microseconds that the runtime spends besides the arithmetic: per call of a kernel, and once per inference."""

    kernel: NonNegative = 0.0
    view: NonNegative = 0.0
    quantize: NonNegative | None = None  # of QuantizeLinear and DequantizeLinear; as `kernel` where not stated
    inference: NonNegative = 0.0  # once per inference


@dataclass(frozen=True)
class Int8:
    """The int8 scheme that the runtime has fast kernels for: what the pass `quantize` emits for this target."""

    activations: Literal["u8", "s8"]
    weights: Literal["u8", "s8"] = "s8"
    reduce_range: bool = False
    per_channel: bool = True

    @property
    def scheme(self) -> str:
        """Activations and weights in one word: ``u8s8``."""
        return self.activations + self.weights


@dataclass(frozen=True)
class Compute:
    """How fast kernels of one number format run, per clock cycle and for one thread.

    Kernels that multiply and accumulate reach `macs_per_cycle x efficiency[kind]`, counted on channels rounded up to
    `channel_multiple`. Others finish `elements_per_cycle[kind]` output elements per cycle. A kind that is not stated
    takes the rate of ``conv`` or ``elementwise``.
    """

    macs_per_cycle: Positive
    channel_multiple: Count
    efficiency: Mapping[MacKind, Positive]
    elements_per_cycle: Mapping[ElementKind, Positive]


@dataclass(frozen=True)
class Physics:
    """What turns the amounts of a kernel table into time.

    Clock cycles per executed instruction of a class (1 where not stated), a factor that calibrates all kernels, and
    further `factors` for single kinds and number formats. `measured_ghz` is the clock at which the nanoseconds of the
    table were measured: on a core with another clock they scale (where not stated, they do not).
    `weight_ns_per_byte` is what each byte of weights adds to a kernel of `ns` or `cycles` where the weights of the
    network do not stay in the second-level cache.
    """

    cycles_per_instruction: Mapping[Annotated[str, Names(INSTRUCTIONS)], Positive] = field(default_factory=dict)
    scale: Positive = 1.0
    factors: Mapping[Annotated[str, Names((*MAC_KINDS, *ELEMENT_KINDS, *FORMATS))], Positive] = field(
        default_factory=dict
    )
    measured_ghz: Positive | None = None
    weight_ns_per_byte: NonNegative = 0.0


@dataclass(frozen=True)
class Quality:
    """How well the target's cost model meets measurements, or that nobody has compared it."""

    compared_with: str
    networks: Annotated[int, Bound(least=0)] = 0
    median_error_percent: NonNegative | None = None


@dataclass(frozen=True)
class Target:
    """A device with the runtime that executes the network on it.

    `compute` is keyed by number format: ``float32``, ``int8``, or one int8 scheme such as ``s8s8`` where it runs at
    another speed. `tables` holds fitted kernels that take the place of that roofline, `physics` what their amounts are
    worth. `footprint` is what the runtime itself takes of the memories. `sources` says for the dotted path of every
    number where it comes from.
    """

    name: str
    description: str
    kind: Literal["cpu", "mcu", "gpu", "npu", "array"]
    runtime: Runtime
    isa: tuple[str, ...]
    core: Core
    memory: Memory
    quality: Quality
    overhead_us: Overhead = field(default_factory=Overhead)
    compute: Mapping[Format, Compute] = field(default_factory=dict)
    physics: Physics = field(default_factory=Physics)
    footprint: Footprint = field(default_factory=Footprint)
    pipeline: str = "exact,quantize"
    energy: Energy = field(default_factory=Energy)
    int8: Int8 | None = None
    ethos_u: EthosU | None = None
    row_stationary: RowStationary | None = None
    eie: Eie | None = None
    datapath: Datapath | None = None
    tables: KernelTable = field(default_factory=KernelTable)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_host: bool = False

    @property
    def machine(self) -> Machine:
        """What prices this target's kernels."""
        return self.ethos_u or self.row_stationary or self.eie or self.datapath or Processor()

    @staticmethod
    def load(name_or_path: str | Path) -> Target:
        """The target of that name, or the one in that ``.toml`` file; ``host`` is this machine, detected.

        Raises UsageError for an unknown name (with the nearest ones), an unreadable or invalid file, a key that is
        unknown, missing or of the wrong type, and for a circle of `extends`.
        """
        text = str(name_or_path)
        if text == "host":
            from lpcc.targets.host import detect

            base, layer = detect()
            return _build(Layers.of(base).over(layer, "host, detected"), "host, detected", is_host=True)
        if _is_path(text):
            path = Path(os.path.expanduser(text))  # noqa: PTH111 - never raises
            return _build(Layers.read(path, ()), str(path))
        plugin = _plugins().get(text)
        if isinstance(plugin, Target):
            return plugin
        return _build(Layers.of(text), text)

    @staticmethod
    def names() -> tuple[str, ...]:
        """All names that `load` knows: built-in ones, those of plugins, and ``host``."""
        return tuple(sorted({*_builtins(), *_plugins(), "host"}))


@dataclass(frozen=True)
class Layers:
    """A target file merged over what it extends: the tables, and a source per number.

    A number never inherits the source of the one that it replaces.
    """

    data: Mapping[str, Any]
    sources: Mapping[str, str]

    @staticmethod
    def of(name: str, chain: tuple[str, ...] = ()) -> Layers:
        """The layers of a named target."""
        builtins = _builtins()
        if name in builtins:
            return Layers.read(builtins[name], chain)
        plugin = _plugins().get(name)
        if plugin is None:
            near = difflib.get_close_matches(name.lower(), Target.names(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}? " if near else ""
            raise UsageError(f"unknown target `{name}`; {hint}`lpcc targets` lists all, or give a .toml file")
        if isinstance(plugin, Target):
            raise UsageError(f"target `{name}` of a plugin is an object, not a file: it cannot be extended")
        return Layers.read(plugin, chain)

    @staticmethod
    def read(path: Path, chain: tuple[str, ...]) -> Layers:
        """The layers of a file; `chain` holds the files that extend it."""
        key = os.path.abspath(path)  # noqa: PTH100 - does not touch the disk
        if key in chain:
            raise UsageError(f"{path}: `extends` runs in a circle: {' -> '.join(Path(p).name for p in (*chain, key))}")
        layer = _parse(path)
        base = layer.pop("extends", None)
        if base is None:
            return Layers({}, {}).over(layer, str(path))
        if not isinstance(base, str):
            raise UsageError(f"{path}: `extends` must be the name or the path of a target, not {base!r}")
        if _is_path(base):
            return Layers.read(path.parent / base, (*chain, key)).over(layer, str(path))
        return Layers.of(base, (*chain, key)).over(layer, str(path))

    def over(self, layer: Mapping[str, Any], where: str) -> Layers:
        """These layers with one more on top.

        What it says of its `quality` takes the place of all that was said. Where it changes numbers and says nothing,
        what was said is marked as the base's.
        """
        layer = dict(layer)
        stated = layer.pop("sources", {})
        if not isinstance(stated, dict) or not all(isinstance(text, str) for text in stated.values()):
            raise UsageError(f"{where}: `sources` must be a table of texts, keyed by dotted path")
        sources = dict(self.sources)
        numbers = set(numbers_of(layer))
        for key in stated:
            if not any(_covers(key, number) for number in numbers):
                tail = unknown(key, numbers, "a number here") if numbers else "but the file states no number"
                raise UsageError(f"{where}: `sources` names `{key}`, {tail}")
        for number in numbers:
            best = max((key for key in stated if _covers(key, number)), key=len, default=None)
            sources[number] = stated[best] if best is not None else ""
        base = dict(self.data)
        if "quality" in layer:
            base.pop("quality", None)
        elif numbers and "quality" in base:
            base["quality"] = _said_of(base.get("name"), base["quality"])
        return Layers(_merge(base, layer), sources)


def _said_of(name: object, quality: object) -> object:
    """What a target says of its quality, told by one that extends it."""
    if not isinstance(quality, Mapping) or "(said of " in str(quality.get("compared_with")):
        return quality
    return {**quality, "compared_with": f"{quality.get('compared_with')} (said of {name}, which this target extends)"}


def numbers_of(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all numbers in nested tables; those of `quality` describe themselves."""
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and path != "quality":
            yield from numbers_of(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path


def _build(layers: Layers, where: str, *, is_host: bool = False) -> Target:
    data = dict(layers.data)
    tables = data.pop("tables", {})
    if not isinstance(tables, dict):
        raise UsageError(f"{where}: `tables` must be a table")
    table = KernelTable()
    for key, value in tables.items():
        if key != "kernels":
            raise UsageError(f"{where}: `tables.{key}` {unknown(key, ['kernels'], 'a table')}")
        table = KernelTable.read(Path(str(value)))
    sources = dict(sorted(layers.sources.items()))
    target = build(Target, data, where, extra={"tables": table, "sources": sources, "is_host": is_host})
    if isinstance(target.machine, Processor):
        _require(target.compute, "float32", "compute", where)
    for name, compute in target.compute.items():
        _require(compute.efficiency, "conv", f"compute.{name}.efficiency", where)
        _require(compute.elements_per_cycle, "elementwise", f"compute.{name}.elements_per_cycle", where)
    return target


def _require(table: Mapping[Any, object], key: str, path: str, where: str) -> None:
    if key not in table:
        raise UsageError(f"{where}: key `{path}.{key}` is missing; the kinds that are not stated take its rate")


def _parse(path: Path) -> dict[str, Any]:
    try:
        layer = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such target file") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text; a target file is TOML in UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: no possible path
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot read the target file: {why}") from None
    tables = layer.get("tables")
    if isinstance(tables, dict) and isinstance(tables.get("kernels"), str):
        tables["kernels"] = str(path.parent / tables["kernels"])  # a file beside the one that names it
    return layer


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in layer.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _covers(key: str, number: str) -> bool:
    return number == key or number.startswith(f"{key}.")


def _is_path(text: str) -> bool:
    """A target's own name may have a slash, ``arm-cortex-a76/ncnn``."""
    return text.endswith(".toml") or text.startswith((".", "/", "~")) or "\\" in text


def _builtins() -> Mapping[str, Path]:
    from lpcc.targets import BUILTIN

    return BUILTIN


def _plugins() -> dict[str, Path | Target]:
    """Targets that installed packages offer: an entry point names a Target or the path of its file."""
    found: dict[str, Path | Target] = {}
    for point in entry_points(group="lpcc.targets"):
        if point.name in found or point.name in _builtins() or point.name == "host":
            raise UsageError(f"target `{point.name}` of plugin `{point.value}` clashes with another one of that name")
        try:
            value = point.load()
        except Exception as error:
            raise UsageError(f"target `{point.name}` of plugin `{point.value}` cannot be loaded: {error}") from error
        if not isinstance(value, Target | str | Path):
            raise UsageError(f"target `{point.name}` of plugin `{point.value}` must be a Target or the path of a .toml")
        found[point.name] = value if isinstance(value, Target) else Path(value)
    return found

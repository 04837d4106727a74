"""The machine that lpcc runs on, as a target."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpcc.errors import UsageError

_CPU = Path("/sys/devices/system/cpu/cpu0")

_ARM_CORES = {  # CPU part numbers of Arm's own cores in /proc/cpuinfo
    "0xd03": "arm-cortex-a53",
    "0xd04": "arm-cortex-a53",
    "0xd05": "arm-cortex-a55",
    "0xd07": "arm-cortex-a72",
    "0xd08": "arm-cortex-a72",
    "0xd09": "arm-cortex-a72",
}


def detect(cpuinfo: str | None = None, machine: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """The built-in target nearest to this machine, and what is known better about the machine itself.

    `cpuinfo` and `machine` replace the text of ``/proc/cpuinfo`` and the name of the architecture.

    Raises UsageError for an architecture that no built-in target is near to.
    """
    text = _read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo
    machine = (platform.machine() if machine is None else machine).lower()
    fields = _fields(text)
    flags = set(fields.get("flags", fields.get("features", "")).split())
    layer: dict[str, Any] = {
        "name": "host",
        "core": {"name": fields.get("model name", machine), "cores": max(1, len(_usable_cores()))},
        "memory": _caches(),
        "quality": {"compared_with": "measured on this machine where lpcc runs it; its roofline is not compared"},
        "sources": {"core": "this machine's operating system"},
    }
    clock = _clock_ghz()
    if clock is not None:
        layer["core"]["clock_ghz"] = clock
    if layer["memory"]:
        layer["sources"]["memory"] = "this machine's operating system"
    if machine in ("x86_64", "amd64"):
        vnni = bool(flags & {"avx512_vnni", "avx_vnni"})
        base = "x86-amx" if vnni and "amx_int8" in flags else "x86-avx512-vnni" if vnni else "x86-avx2"
        named = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "vnni", "avx_vnni": "vnni", "amx_int8": "amx"}
        layer["isa"] = ["x86", *dict.fromkeys(word for flag, word in named.items() if flag in flags)]
    elif machine in ("aarch64", "arm64"):
        dot = "asimddp" in flags or machine == "arm64"
        base = _ARM_CORES.get(fields.get("cpu part", ""), "arm-cortex-a76" if dot else "arm-cortex-a72")
        named = {"asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm"}
        layer["isa"] = ["aarch64", "neon", *(word for flag, word in named.items() if flag in flags)]
    else:
        raise UsageError(f"target `host`: no built-in target is near to a {machine or 'nameless'} processor; name one")
    layer["description"] = f"this machine: {layer['core']['name']}, predicted as {base}"
    return base, layer


def _fields(cpuinfo: str) -> dict[str, str]:
    """The first value of each field of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(key.strip().lower(), value.strip())
    return found


def _clock_ghz() -> float | None:
    """The limit of frequency scaling, if the system states it; what the processor runs at now says little."""
    limit = _read(_CPU / "cpufreq" / "cpuinfo_max_freq").strip()
    return float(limit) / 1e6 if limit.isdigit() and int(limit) > 0 else None


def _caches() -> dict[str, int]:
    """Data caches in KiB, as far as the system states them."""
    found: dict[str, int] = {}
    for index in sorted(_CPU.glob("cache/index*")):
        size, level = _read(index / "size").strip(), _read(index / "level").strip()
        if _read(index / "type").strip() != "Instruction" and size.endswith("K") and level in ("1", "2", "3"):
            found[f"l{level}_kib"] = int(size[:-1])
    return found


def _usable_cores() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return set(range(os.cpu_count() or 1))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

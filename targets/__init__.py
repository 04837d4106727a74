"""The devices that lpcc knows, as data: a TOML file each. `lpcc.target.Target.load` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_NAMES = (
    "arm-cortex-a",
    "arm-cortex-a53",
    "arm-cortex-a55",
    "arm-cortex-a72",
    "arm-cortex-a76",
    "arm-cortex-m4",
    "arm-cortex-m7",
    "x86-avx2",
    "x86-avx512-vnni",
)

BUILTIN: Mapping[str, Path] = MappingProxyType({name: Path(__file__).with_name(f"{name}.toml") for name in _NAMES})

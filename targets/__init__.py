"""The devices that lpcc knows, as data: a TOML file each. `lpcc.target.Target.load` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_FOLDER = Path(__file__).parent

BUILTIN: Mapping[str, Path] = MappingProxyType(
    {path.relative_to(_FOLDER).with_suffix("").as_posix(): path for path in sorted(_FOLDER.rglob("*.toml"))}
)
"""Path of each target's file by name; the variant ``arm-cortex-a76/ncnn`` lies in a folder of its core."""

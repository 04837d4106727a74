"""The passes that come with lpcc, a folder for each technique."""

from __future__ import annotations

from typing import Final

from lpcc.pipeline import Pass

BUILTIN: Final[tuple[type[Pass], ...]] = ()

NAMED: Final[dict[str, str]] = {}

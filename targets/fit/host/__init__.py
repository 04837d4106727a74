"""Calibrating a target on the machine that lpcc runs on: probes, gated timing, the fit, the file, the check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpcc.targets.fit.check import Check

__all__ = ["checks"]


def checks(truth: Path) -> list[Check]:
    """What a target measured on this machine promises; see `lpcc.targets.fit.host.zoo`. Takes minutes."""
    from lpcc.targets.fit.host import zoo

    return zoo.checks(truth)

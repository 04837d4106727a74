"""Cost models: latency, energy and memory of a graph on a target, layer by layer, with the reason.

The names below are imported on first use: targets need the tables of this package, not its models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpcc.cost.model import Cost as Cost
    from lpcc.cost.model import CostModel as CostModel
    from lpcc.cost.model import LayerCost as LayerCost
    from lpcc.cost.model import Totals as Totals
    from lpcc.cost.table import KernelTable as KernelTable

_HOME = {
    "Cost": "lpcc.cost.model",
    "CostModel": "lpcc.cost.model",
    "KernelTable": "lpcc.cost.table",
    "LayerCost": "lpcc.cost.model",
    "Totals": "lpcc.cost.model",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lpcc.cost' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

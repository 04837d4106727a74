"""lpcc: an optimising compiler for low-power computer vision. ONNX in, ONNX out, never silently worse.

The names below are imported on first use, so that ``import lpcc`` and ``lpcc --help`` stay light.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpcc.driver import Result as Result
    from lpcc.driver import optimize as optimize
    from lpcc.errors import BudgetError as BudgetError
    from lpcc.errors import DataError as DataError
    from lpcc.errors import LpccError as LpccError
    from lpcc.errors import ModelError as ModelError
    from lpcc.errors import PassError as PassError
    from lpcc.errors import UsageError as UsageError
    from lpcc.pipeline import Changes as Changes
    from lpcc.pipeline import Context as Context
    from lpcc.pipeline import Fidelity as Fidelity
    from lpcc.pipeline import LocalPass as LocalPass
    from lpcc.pipeline import Need as Need
    from lpcc.pipeline import Pass as Pass
    from lpcc.pipeline import Pipeline as Pipeline
    from lpcc.retraining import Retrained as Retrained
    from lpcc.retraining import retrain as retrain
    from lpcc.target import Target as Target

__version__ = "0.1.0"

_HOME = {
    "BudgetError": "lpcc.errors",
    "DataError": "lpcc.errors",
    "LpccError": "lpcc.errors",
    "ModelError": "lpcc.errors",
    "PassError": "lpcc.errors",
    "UsageError": "lpcc.errors",
    "Result": "lpcc.driver",
    "optimize": "lpcc.driver",
    "Changes": "lpcc.pipeline",
    "Context": "lpcc.pipeline",
    "Fidelity": "lpcc.pipeline",
    "LocalPass": "lpcc.pipeline",
    "Need": "lpcc.pipeline",
    "Pass": "lpcc.pipeline",
    "Pipeline": "lpcc.pipeline",
    "Retrained": "lpcc.retraining",
    "retrain": "lpcc.retraining",
    "Target": "lpcc.target",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lpcc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_root = Path(__file__).parent.parent  # in a checkout passes/ and targets/ sit beside lpcc/, not inside it
if (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

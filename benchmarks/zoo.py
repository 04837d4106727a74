"""The zoo of real models, for benchmarks: found by LPCC_ZOO, else in shared/zoo beside the checkout."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

ROOT = Path(os.environ.get("LPCC_ZOO") or Path(__file__).parents[2] / "shared" / "zoo")


def load() -> ModuleType:
    """The zoo's own module, with `ENTRIES`, `feeds` and `score`. Exits with a message where there is none."""
    spec = importlib.util.spec_from_file_location("zoo_of_models", ROOT / "zoo.py")
    if spec is None or spec.loader is None or not (ROOT / "zoo.py").is_file():
        raise SystemExit(f"no model zoo at {ROOT}: set LPCC_ZOO to its folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(name: str) -> Path:
    """The ONNX file of an entry."""
    return ROOT / "models" / f"{name}.onnx"

"""What all tests may use: the zoo of real models, where it is at hand."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]

pytest_plugins = ["lpcc.testing.plugin"]  # the option --update-golden and the fixture `golden`


@dataclass(frozen=True)
class Zoo:
    """Real models with images; see the zoo's own README."""

    root: Path
    module: ModuleType

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.module.ENTRIES)

    def model(self, name: str) -> Path:
        """The ONNX file of an entry."""
        return self.root / "models" / f"{name}.onnx"

    def calib(self, name: str, count: int) -> dict[str, Array]:
        """Preprocessed calibration images, (count, ...) by input name."""
        feeds: dict[str, Array] = self.module.feeds(name, "calib", count)[0]
        return feeds

    def eval(self, name: str, count: int) -> tuple[dict[str, Array], Array | None]:
        """Preprocessed evaluation images and, where the entry has them, labels."""
        found: tuple[dict[str, Array], Array | None] = self.module.feeds(name, "eval", count)
        return found


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    """The zoo that LPCC_ZOO names, or the one in shared/zoo beside the checkout; skips where there is none."""
    root = Path(os.environ.get("LPCC_ZOO") or Path(__file__).parents[2] / "shared" / "zoo")
    file = root / "zoo.py"
    if not file.is_file():
        pytest.skip(f"no model zoo at {root}: set LPCC_ZOO to its folder")
    spec = importlib.util.spec_from_file_location("zoo", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Zoo(root, module)


@pytest.fixture(scope="session")
def truth() -> Path:
    """The folder of measurements that LPCC_TRUTH names, or shared/truth beside the checkout; skips without it."""
    root = Path(os.environ.get("LPCC_TRUTH") or Path(__file__).parents[2] / "shared" / "truth")
    if not root.is_dir():
        pytest.skip(f"no measurements at {root}: set LPCC_TRUTH to their folder")
    return root

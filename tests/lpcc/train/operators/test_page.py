"""The page that lists the operators is the one that the code writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

PAGE = Path(__file__).parents[4] / "docs" / "training-operators.md"


def test_the_page_is_up_to_date() -> None:
    from lpcc.train.operators.page import page

    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m lpcc.train.operators docs/training-operators.md"


def test_all_operators_are_on_it() -> None:
    from lpcc.train.operators import OPERATORS
    from lpcc.train.operators.page import page

    text = page()
    known, rest = text.split("## Not known")
    assert [op for _, op in OPERATORS if not re.search(rf"\b{op}\b", known)] == []
    assert "ImageDecoder" in rest
    assert [op for _, op in OPERATORS if re.search(rf"\b{op}\b", rest)] == []


def test_the_command_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    subprocess.run([sys.executable, "-m", "lpcc.train.operators", str(out)], check=True, cwd=PAGE.parents[1])
    assert out.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")

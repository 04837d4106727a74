from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

import lpcc
from lpcc.errors import UsageError
from lpcc.report import Figures, LayerReport, PassReport, Quality, RefusalReport, Report, Verdict, WorstReport

KEYS = [
    "model",
    "output",
    "target",
    "pipeline",
    "seed",
    "versions",
    "seconds",
    "before",
    "after",
    "quality",
    "passes",
    "layers",
    "verdict",
    "notes",
    "worst",
]
FIGURES = [
    "nodes",
    "parameters",
    "macs",
    "weight_bytes",
    "file_bytes",
    "latency_ms",
    "energy_mj",
    "peak_activation_bytes",
    "bytes_by_type",
    "bits_per_weight",
]
QUALITY = ["metric", "samples", "before", "after", "drop", "agreement", "sqnr_db"]


def test_the_keys_are_stable(report: Report) -> None:
    data = report.to_json()
    assert list(data) == KEYS
    assert list(data["before"]) == list(data["after"]) == FIGURES
    assert list(data["quality"])[:7] == QUALITY
    assert list(data["passes"][0]) == ["name", "options", "seconds", "counts", "refused", "taken_back"]
    assert list(data["passes"][1]["refused"][0]) == ["node", "reason"]


def test_there_and_back(report: Report) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    assert Report.from_json(json.loads(text)) == report


def test_infinite_numbers_become_null(report: Report) -> None:
    endless = replace(report, quality=replace(report.quality, sqnr_db=math.inf))
    assert json.loads(json.dumps(endless.to_json(), allow_nan=False))["quality"]["sqnr_db"] is None


def test_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="model is missing"):
        Report.from_json({"output": None})


DOCS = Path(lpcc.__file__).parents[1] / "docs"


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not installed")
@pytest.mark.parametrize(
    "kind",
    [Report, Figures, Quality, PassReport, RefusalReport, LayerReport, WorstReport, Verdict],
    ids=lambda kind: kind.__name__,
)
def test_every_key_is_documented(kind: type) -> None:
    page = (DOCS / "report.md").read_text()
    missing = [field.name for field in fields(kind) if f"`{field.name}`" not in page]
    assert missing == []

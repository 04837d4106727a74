"""Reports: what was done to a model, what it gained and what it cost, as data, as JSON and on a terminal."""

from __future__ import annotations

from lpcc.report.model import Figures, LayerReport, PassReport, Quality, RefusalReport, Report, Verdict, WorstReport

__all__ = ["Figures", "LayerReport", "PassReport", "Quality", "RefusalReport", "Report", "Verdict", "WorstReport"]

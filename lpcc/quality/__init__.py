"""Judging models: metrics over data, and how close one model's outputs are to another's."""

from __future__ import annotations

from lpcc.quality.classes import Classes, class_outputs
from lpcc.quality.compare import Comparison, Score, compare, compare_runs, evaluate, layer_sqnr, require_numbers
from lpcc.quality.expected import Expected
from lpcc.quality.metric import BUILTIN, Metric, Tally, drop, parse_metric
from lpcc.quality.tallies import Difference, Hits, in_top, same_choice, scores

__all__ = [
    "BUILTIN",
    "Classes",
    "Comparison",
    "Difference",
    "Expected",
    "Hits",
    "Metric",
    "Score",
    "Tally",
    "class_outputs",
    "compare",
    "compare_runs",
    "drop",
    "evaluate",
    "in_top",
    "layer_sqnr",
    "parse_metric",
    "require_numbers",
    "same_choice",
    "scores",
]

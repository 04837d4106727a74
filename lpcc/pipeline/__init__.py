"""Passes and pipelines: what a pass is, its text form, how pipelines run and are watched."""

from lpcc.pipeline.base import Changes, Fidelity, LocalPass, Need, Pass, Range, Refusal, Rewrite
from lpcc.pipeline.context import Context
from lpcc.pipeline.syntax import Pipeline

__all__ = ["Changes", "Context", "Fidelity", "LocalPass", "Need", "Pass", "Pipeline", "Range", "Refusal", "Rewrite"]

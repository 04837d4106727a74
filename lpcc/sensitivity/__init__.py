"""How much each choice for each layer costs in quality: measured, in parallel, kept on disk."""

from __future__ import annotations

from lpcc.sensitivity.bench import Bench, Subject
from lpcc.sensitivity.measure import measure
from lpcc.sensitivity.survey import Entry, Removable, RemovesShares, Survey, Unit, survey
from lpcc.sensitivity.table import Row, Table, Trial, around, leave_one_in, leave_one_out

__all__ = [
    "Bench",
    "Entry",
    "Removable",
    "RemovesShares",
    "Row",
    "Subject",
    "Survey",
    "Table",
    "Trial",
    "Unit",
    "around",
    "leave_one_in",
    "leave_one_out",
    "measure",
    "survey",
]

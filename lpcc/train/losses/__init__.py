"""What a student is to learn from its teacher, and how far it is from it."""

from __future__ import annotations

from lpcc.train.losses.base import Loss, Setting, Term
from lpcc.train.losses.objective import Objective
from lpcc.train.losses.text import LOSSES, Part, format_losses, parse

__all__ = ["LOSSES", "Loss", "Objective", "Part", "Setting", "Term", "format_losses", "parse"]

"""``python -m lpcc``."""

from __future__ import annotations

from lpcc.cli import main

main()

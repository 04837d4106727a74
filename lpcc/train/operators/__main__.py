"""`python -m lpcc.train.operators [FILE]`: the page that lists the operators, printed or written to a file."""

from __future__ import annotations

import sys
from pathlib import Path

from lpcc.train.operators.page import page

if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")

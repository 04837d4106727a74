"""lpcc: `lpcc optimize` with the calibration images alone. The variant is its further options.

`no-data` among them takes the images away, too.
"""

from __future__ import annotations

import shlex
import sys

from lpcc.cli import main
from lpcc.errors import BudgetError

if __name__ == "__main__":
    model, images, result, options = sys.argv[1:]
    given = shlex.split(options)
    data = ["--calib", images]
    if "no-data" in given:
        given.remove("no-data")
        data = []
    sys.argv = ["lpcc", "optimize", model, "--output", result, *data, *given]
    try:
        main()
    except SystemExit as end:  # where the budget is not met, the best model within it is written
        sys.exit(None if end.code == BudgetError.exit_code else end.code)

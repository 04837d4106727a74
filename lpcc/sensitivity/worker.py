"""A process that judges trials: ``python -m lpcc.sensitivity.worker SUBJECT``, trials on stdin, values on stdout.

A process of its own, rather than one of `multiprocessing`, as it must not run the main module of whoever called, and
not inherit the threads of its runtime.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

from lpcc.sensitivity.bench import Bench
from lpcc.sensitivity.table import Trial


def main(path: str) -> None:
    """Answer each line of stdin, a trial as JSON, by one of stdout, until stdin ends."""
    bench = Bench(pickle.loads(Path(path).read_bytes()))  # noqa: S301 - written by the process that started this one
    for line in sys.stdin:
        base, layer, choice, assignment = json.loads(line)
        trial = Trial(base, layer, choice, tuple((name, chosen) for name, chosen in assignment))
        sys.stdout.write(json.dumps(dict(bench.values(trial))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])

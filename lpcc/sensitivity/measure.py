"""Running many trials: in parallel, resumable, with progress."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock

from lpcc.errors import PassError
from lpcc.sensitivity.bench import Bench, Subject
from lpcc.sensitivity.table import Journal, Row, Table, Trial, Values

Progress = Callable[[int, int], None]

_FEW = 4
"""Trials that are not worth starting processes for."""


def measure(
    subject: Subject,
    trials: Iterable[Trial],
    *,
    cache: Path | None = None,
    processes: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Table:
    """Judge all trials, each by itself.

    The outcome does not depend on the number of `processes` (by default one for each core, one thread each). With a
    folder `cache` outcomes are kept there, and trials that it holds are not run again. `progress` is told the trials
    done and their number.

    Raises:
        UsageError: the cache cannot be written.
        PassError: the pass crashed in another process; the message holds its last line.
        LpccError: of the pass itself.
    """
    trials = list(trials)
    journal = None if cache is None else Journal(cache, subject.digest)
    found: dict[str, Values] = {}
    for trial in trials:
        known = None if journal is None else journal.get(trial)
        if known is not None:
            found[trial.key] = known
    waiting = list({trial.key: trial for trial in trials if trial.key not in found}.values())
    total = len({trial.key for trial in trials})

    def done(trial: Trial, values: Values) -> None:
        if journal is not None:
            journal.add(trial, values)
        found[trial.key] = values
        progress(len(found), total)

    count = min(processes or os.cpu_count() or 1, len(waiting))
    foreign = type(subject.item).__module__ == "__main__" or not sys.executable  # cannot be found by another process
    if count > 1 and len(waiting) > _FEW and not foreign:
        _in_parallel(subject, waiting, count, done)
    elif waiting:
        bench = Bench(subject)
        for trial in waiting:
            done(trial, bench.values(trial))
    return Table(tuple(Row(trial.base, trial.layer, trial.choice, found[trial.key]) for trial in trials))


def _in_parallel(subject: Subject, trials: Sequence[Trial], count: int, done: Callable[[Trial, Values], None]) -> None:
    """Let `count` processes take trials from one queue; each is served by a thread that waits for its answers."""
    queue: SimpleQueue[Trial] = SimpleQueue()
    for trial in trials:
        queue.put(trial)
    lock, stop = Lock(), Event()

    def serve(path: Path) -> None:
        try:
            with _Worker(path) as worker:
                while not stop.is_set():
                    trial = queue.get_nowait()
                    values = worker.ask(trial)
                    with lock:
                        done(trial, values)
        except Empty:
            return
        except BaseException:
            stop.set()  # the others finish what they are at
            raise

    with tempfile.TemporaryDirectory(prefix="lpcc-sensitivity-") as folder:
        path = Path(folder) / "subject.pickle"
        path.write_bytes(pickle.dumps(subject))
        with ThreadPoolExecutor(count) as pool:
            try:
                for served in [pool.submit(serve, path) for _ in range(count)]:
                    served.result()
            except BaseException:  # the user's Ctrl-C ends up here
                stop.set()
                raise


class _Worker:
    """A process of `lpcc.sensitivity.worker`. It ends when nobody writes to it any more, also if we are killed."""

    def __init__(self, subject: Path) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lpcc.sensitivity.worker", str(subject)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, trial: Trial) -> Values:
        """What comes of a trial. Raises PassError if the process died of it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        line = ""
        if stdin is not None and stdout is not None:
            try:
                stdin.write(json.dumps([trial.base, trial.layer, trial.choice, trial.assignment]) + "\n")
                stdin.flush()
                line = stdout.readline()
            except BrokenPipeError:
                pass
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = ([text for text in self._errors.read().splitlines() if text.strip()] or ["no message"])[-1]
            where = f"`{trial.layer}={trial.choice}`" if trial.layer else f"all at `{trial.base}`"
            raise PassError(f"measuring {where} failed: {last.strip()}")
        values: dict[str, float] = json.loads(line)
        return values

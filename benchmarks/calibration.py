"""Calibration against plain inference: time over the same images, peak memory, and the time of searches, by method.

    python benchmarks/calibration.py [--repeats 3] [--images 100,1000] [--model mobilenetv2_imagenet]

Each measurement is a process of its own; times are those of the processor in one thread (so that others on the machine
disturb them less), medians of interleaved runs, reading the images included. Statistics are one streaming run, as
`quantize` asks for it by each method, and are compared with plain inference over the same images, one at a time.
Searches (`output`, `auto`) run on top of that, on a number of images that does not grow; theirs is the time and the
peak memory of the whole pass with 100 images. Without so many calibration images in the zoo they are repeated with a
little noise. Exits with 1 if statistics of 1,000 images take over 1.3 times the plain inference by any method, or 1 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zoo
from rich.console import Console
from rich.table import Table

_METHODS = ("minmax", "average", "percentile", "entropy", "mse")
_SEARCHES = ("output", "auto")
_SEARCHED = 100
_MOST_RATIO, _MOST_BYTES = 1.3, 1e9


def work(what: str, model: str, images: str) -> None:
    """Do one measurement and print seconds and peak bytes as JSON."""
    from lpcc.data import Dataset
    from lpcc.graph import load, to_proto
    from lpcc.passes.quantize.placement import Planner
    from lpcc.passes.quantize.ranging import RangeOptions, Ranging
    from lpcc.pipeline import Changes, Context, Pipeline
    from lpcc.pipeline.runner import run_pipeline
    from lpcc.runtime import Session
    from lpcc.target import Target

    ctx = Context(target=Target.load("x86-avx512-vnni"))
    graph = load(zoo.model(model))
    run_pipeline(graph, Pipeline.parse("exact"), ctx)
    proto = to_proto(graph)
    ctx.calibration = data = Dataset.open(images, Session(proto).inputs)
    placement = Planner(graph, frozenset(), Changes()).place()
    start = time.process_time()
    if what == "infer":
        session = Session(proto)
        for batch in data.batches(1):
            session.run(batch.feeds)
    elif what in _SEARCHES:
        run_pipeline(graph, Pipeline.parse(f"quantize{{ranges={what}}}"), ctx)
    else:
        options = RangeOptions(what, 99.99, symmetric=False)  # type: ignore[arg-type]
        Ranging(proto, "", data, options, ctx).groups(placement, np.dtype(np.uint8))
    seconds = time.process_time() - start
    print(json.dumps([seconds, peak_bytes()]))


def peak_bytes() -> int:
    """The most memory that this program had resident. The kernel's ru_maxrss would be that of who started it, too."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def save_images(path: Path, feed: str, images: np.ndarray, count: int) -> None:
    """Write `count` images as calibration data, repeated with noise of 1 % where there are not so many."""
    rng = np.random.default_rng(0)
    repeats = [images] + [
        images + (0.01 * images.std() * rng.standard_normal(images.shape)).astype(np.float32)
        for _ in range(1, -(-count // len(images)))
    ]
    np.savez(path, **{feed: np.concatenate(repeats)[:count]})


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", default="100,1000")
    parser.add_argument("--model", default="mobilenetv2_imagenet")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.model, arguments.data)
        return
    counts = [int(count) for count in arguments.images.split(",")]
    (feed, images), *_ = zoo.load().feeds(arguments.model, "calib", max(counts))[0].items()
    found: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in {*counts, _SEARCHED}:
            save_images(Path(folder) / f"{count}.npz", feed, images, count)
        runs = [(what, count) for count in counts for what in ("infer", *_METHODS)]
        for _ in range(arguments.repeats):
            for what, count in [*runs, *((search, _SEARCHED) for search in _SEARCHES)]:
                command = [sys.executable, __file__, "--model", arguments.model]
                command += ["--work", what, "--data", str(Path(folder) / f"{count}.npz")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault((what, count), []).append(json.loads(done.stdout.splitlines()[-1]))
    table = Table("images", "method", "seconds", "/ inference", "peak MB", title=f"calibration of {arguments.model}")
    broken = False
    for (what, count), results in found.items():
        seconds, peak = (statistics.median(column) for column in zip(*results, strict=True))
        ratio = ""
        if what in _METHODS:
            shares = [a[0] / b[0] for a, b in zip(results, found["infer", count], strict=True)]
            ratio = f"{statistics.median(shares):.2f}"
            broken |= count == max(counts) and (statistics.median(shares) > _MOST_RATIO or peak > _MOST_BYTES)
        name = "plain inference" if what == "infer" else f"{what} (search)" if what in _SEARCHES else what
        table.add_row(str(count), name, f"{seconds:.2f}", ratio, f"{peak / 1e6:.0f}")
    Console(width=120).print(table)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()

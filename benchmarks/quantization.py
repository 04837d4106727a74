"""Int8 by lpcc and by the other tools of the field: accuracy, speed, and what quantising costs, in one table.

    python benchmarks/quantization.py [--models NAME...] [--peers TEXT...] [--images 150] [--reuse] [--preset accurate]

Every tool gets the same calibration images and one core of this machine, and runs in an environment of its own, which
pip fills from PyPI (into `--folder`, where the tools' files stay too). lpcc gets the model's file as it is; the others
get it prepared, which does them good: raised to opset 13 by onnx's converter where it is older, and batch norms folded
by onnxruntime's `quant_pre_process`. lpcc sees no images but those for calibration: its guard judges on them, too. What
comes out is run by the onnxruntime that lpcc runs on:

- top-1, for FastestDet mAP50 on all 128 COCO images of the zoo, half of which were calibrated on, in percent;
- agreement with the float model's first choice (of a class, of each anchor or of each pixel) in percent;
- SQNR in dB of the worst output, on up to `--evaluation` images that calibration did not see;
- integer and float convolutions as onnxruntime executes them;
- time of one image with one thread as a share of the float model's: medians of runs of all files in turns;
- seconds of one core and peak memory of quantising, the start of the program included.

With --reuse the peers' files of an earlier run are kept, with --reuse all lpcc's too; only the rest is done again. A
model is an entry of the zoo or a folder with model.onnx, calib.npz, eval.npz and preprocess.toml, such as
examples/fashion_mnist.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import detection
import numpy as np
import zoo
from peers.judging import Judged, Subject, judge
from peers.tools import TOOLS, Made, Tool, Workshop

from lpcc.data import Dataset
from lpcc.runtime import Session

_CHOICES = {"ultraface_rfb320": {"scores": 2}, "deeplabv3_mnv2_dm05_person": {"transpose:0": 1}}
_COLUMNS = (
    *("model", "tool", "top-1 or mAP50", "agreement %", "SQNR dB", "int/float conv", "time / float"),
    *("made in s", "peak MB"),
)
_MARGINS = (
    *("lpcc", "top-1 or mAP50 - float's", "agreement - best of the fast", "SQNR - best of the fast"),
    "time / onnxruntime's fastest",
)
_DETECTOR = "fastestdet_coco"
_FAST = 1.25
"""Times the fastest file's time up to which a file counts as fast."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="entries of the zoo, or folders; the whole zoo by default")
    parser.add_argument("--peers", nargs="*", help="tools, by how their names begin; all by default")
    parser.add_argument("--images", type=int, default=150, help="calibration images")
    parser.add_argument("--evaluation", type=int, default=5000, help="evaluation images")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing for each model")
    parser.add_argument("--preset", default="accurate", help="of lpcc; `none` for the target's own pipeline")
    parser.add_argument("--pipeline", help="of lpcc, in place of the preset")
    parser.add_argument("--target", default="host", help="of lpcc")
    parser.add_argument("--no-data", action="store_true", help="let lpcc try without any images, too")
    parser.add_argument(
        "--reuse", nargs="?", const="peers", choices=("peers", "all"), help="keep files of earlier runs"
    )
    parser.add_argument("--folder", type=Path, help="for environments and files; ~/.cache/lpcc-peers by default")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that quantising may take")
    parser.add_argument("--memory", type=float, default=12.0, help="gigabytes of address space that it may take")
    given = parser.parse_args()
    folder = given.folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lpcc-peers"
    workshop = Workshop(folder, given.limit, given.memory)
    ours = _ours(given)
    tools = [*ours, *_chosen(given.peers)]
    print(_heading(_COLUMNS), flush=True)
    asked = []
    for name in given.models or zoo.load().ENTRIES:
        subject = _subject(name, given.images, given.evaluation)
        made = {}
        for tool in tools:
            reuse = given.reuse == "all" or (given.reuse == "peers" and tool not in ours)
            print(f"{subject.name}: {tool.name} ...", file=sys.stderr, flush=True)
            made[tool.name] = workshop.made(tool, subject.model, subject.calibration, name=subject.name, reuse=reuse)
        files = {tool: each.path for tool, each in made.items() if each.error is None}
        judged = judge(subject, files, seconds=given.seconds)
        print("\n".join(_rows(subject, judged, made)), flush=True)
        asked.append(_against(subject, judged, [tool.name for tool in ours]))
    print("\n".join(["", _heading(_MARGINS), *filter(None, asked)]))


def _heading(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def _ours(given: argparse.Namespace) -> list[Tool]:
    options = ["--target", given.target]
    if given.pipeline:
        options += ["--pipeline", given.pipeline]
    elif given.preset != "none":
        options += ["--preset", given.preset]
    tools = [Tool("lpcc", "for_lpcc.py", shlex.join(options), prepared=False)]
    if given.no_data:
        tools.append(Tool("lpcc without images", "for_lpcc.py", shlex.join([*options, "no-data"]), prepared=False))
    return tools


def _chosen(peers: Sequence[str] | None) -> list[Tool]:
    if peers is None:
        return list(TOOLS)
    return [tool for tool in TOOLS if any(tool.name.lower().startswith(peer.lower()) for peer in peers)]


def _subject(name: str, images: int, evaluation: int) -> Subject:
    """An entry of the zoo, or a folder."""
    if (folder := Path(name)).is_dir():
        model, preprocess = folder / "model.onnx", folder / "preprocess.toml"
        inputs = Session(model).inputs
        calibration, _ = _arrays(Dataset.open(str(folder / "calib.npz"), inputs, preprocess), images)
        unseen, labels = _arrays(Dataset.open(str(folder / "eval.npz"), inputs, preprocess), evaluation)
        return Subject(folder.resolve().name, model.resolve(), calibration, unseen, labels, {})
    module = zoo.load()
    calibration, _ = module.feeds(name, "calib", images)
    unseen, labels = module.feeds(name, "eval", evaluation)
    subject = Subject(name, zoo.model(name).resolve(), calibration, unseen, labels, _CHOICES.get(name, {}))
    return replace(subject, scenes=detection.samples()) if name == _DETECTOR else subject


def _arrays(data: Dataset, count: int) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The first images of a data set in memory."""
    parts = [(batch.feeds, batch.labels) for batch in data.head(count).batches(1)]
    feeds = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    labels = [label for _, label in parts if label is not None]
    return feeds, np.concatenate(labels) if labels else None


def _rows(subject: Subject, judged: Mapping[str, Judged], made: Mapping[str, Made]) -> list[str]:
    """The rows of a model: float first, then the tools."""
    rows = [f"| {subject.name} | float | {_number(judged['float'].score, 2)} | | | {judged['float'].kernels} | 1 | | |"]
    for name, each in made.items():
        found = judged.get(name)
        error = each.error or (found.error if found else None)
        if found is None or error:
            cells = [f"fails: {error}".replace("|", "/"), "", "", "", ""]
        else:
            cells = [_number(found.score, 2), _number(found.agreement, 1), _number(found.sqnr, 1)]
            cells += [found.kernels, f"{found.share:.2f}"]
        cost = [f"{each.seconds:.0f}", f"{each.bytes / 1e6:.0f}"]
        rows.append(f"| | {name} | {' | '.join([*cells, *cost])} |")
    return rows


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _against(subject: Subject, judged: Mapping[str, Judged], ours: Sequence[str]) -> str:
    """How lpcc does beside the best of the fast others and onnxruntime's fastest; empty if either is missing."""
    peers = {name: found for name, found in judged.items() if name not in (*ours, "float") and not found.error}
    mine = judged.get(ours[0])
    if mine is None or mine.error or not peers:
        return ""
    pace = _FAST * min(found.share for found in (mine, *peers.values()))
    fast = [found for found in peers.values() if found.share <= pace]
    runtime = min((found.share for name, found in peers.items() if name.startswith("onnxruntime")), default=math.nan)
    margins = [mine.score - judged["float"].score]
    margins.append(mine.agreement - max((found.agreement for found in fast), default=math.nan))
    margins.append(mine.sqnr - max((found.sqnr for found in fast), default=math.nan))
    signed = [("" if math.isnan(margin) else f"{margin:+.2f}") for margin in margins]
    return f"| {subject.name} | {' | '.join(signed)} | {mine.share / runtime:.2f} |"


if __name__ == "__main__":
    main()

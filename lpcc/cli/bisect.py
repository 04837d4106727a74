"""``lpcc bisect``: the pass that breaks a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal

if TYPE_CHECKING:
    import onnx

    from lpcc.data import Dataset


def bisect(
    model: options.Model,
    target: options.TargetName = "host",
    pipeline: options.PipelineText = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, help="Largest difference that still is no fault, of an output's magnitude."),
    ] = 1e-4,
    data: options.DataSpec = None,
    preprocess: options.Preprocessing = None,
    dim: options.Sizes = None,
    seed: options.Seed = 0,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Find the pass of a pipeline that breaks a model.

    Broken: it crashes, is no longer valid, or its outputs changed.

    Passes that are not exact change the outputs on purpose: give a tolerance that they are meant to hold. The data, or
    else made-up images, serve passes that need calibration; its first sample is what outputs are compared on.
    """
    options.finite("--tolerance", tolerance)
    sizes = options.sizes(dim)
    options.check_data(data, dim, preprocess=preprocess)
    terminal = Terminal(quiet, json)
    terminal.check_json(model)

    from lpcc.cli.feeds import data_feeds, random_feeds
    from lpcc.graph import load, to_proto
    from lpcc.pipeline import Context, Need, Pipeline
    from lpcc.pipeline.bisect import bisect as search
    from lpcc.target import Target

    device = Target.load(target)
    parsed = Pipeline.parse(device.pipeline if pipeline is None else pipeline)
    proto = to_proto(load(model))
    feeds = next(data_feeds(proto, data, preprocess, 1)) if data else random_feeds(proto, sizes, seed)
    with terminal.progress() as step:
        ctx = Context(target=device, seed=seed, progress=step)
        if any(Need.CALIBRATION in item.required for item in parsed):
            ctx.calibration = _calibration(proto, data, preprocess, seed)
        found = search(proto, parsed.passes, ctx, feeds, tolerance=tolerance)
    culprit = None
    lines = [f"{model}: all {len(parsed.passes)} passes leave it sound"]
    if found is not None:
        culprit = {"index": found.index, "pass": str(found.item), "problem": found.problem}
        lines = [f"pass {found.index + 1} of {len(parsed.passes)}, `{found.item}`: {found.problem}"]
    terminal.write_json({"model": str(model), "pipeline": str(parsed), "tolerance": tolerance, "culprit": culprit})
    terminal.show(lines)


def _calibration(model: onnx.ModelProto, data: str | None, preprocess: Path | None, seed: int) -> Dataset:
    from lpcc.data import Dataset
    from lpcc.runtime import TensorSpec

    if data:
        return Dataset.open(data, TensorSpec.inputs_of(model), preprocess)
    return Dataset.synthetic(model, seed=seed)

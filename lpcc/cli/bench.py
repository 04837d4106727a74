"""``lpcc bench``: how long models take on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpcc.cli import options
from lpcc.cli.terminal import Terminal
from lpcc.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx

    from lpcc.runtime import Comparison, Session, Timing


def bench(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(metavar="A", help="ONNX file.", show_default=False)],
    b: Annotated[Path | None, typer.Argument(metavar="[B]", help="ONNX file to compare.", show_default=False)] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads within an operator.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Time to spend, after the warm-up.")] = 10.0,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Fewest runs of each model.")] = 15,
    data: options.DataSpec = None,
    preprocess: options.Preprocessing = None,
    dim: options.Sizes = None,
    seed: options.Seed = 0,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="CPU",
            show_default=False,
            help="Count instructions on an emulated cortex-a53, -a55, -a72, -a76, neoverse-n1 or a target's core.",
        ),
    ] = None,
    json: options.JsonFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Time a model on this machine, or two of them in turns.

    In onnxruntime, after a warm-up; two models run A B A B ..., so that a slow moment of the machine hits both.

    The ratio is the median over the pairs of B's time by A's: below 1, B is faster. Inputs are the first sample of the
    given data, else random.

    With --on nothing is timed: the real onnxruntime for 64-bit Arm runs under QEMU (`lpcc emulator` sets it up), its
    outputs are compared with this machine's on 8 samples, and the instructions of one run are counted by class.
    """
    options.finite("--seconds", seconds)
    sizes = options.sizes(dim)
    options.check_data(data, dim, preprocess=preprocess)
    terminal = Terminal(quiet, json)
    terminal.check_json(a, b)
    cpu = "" if on is None else _processor(context, on)

    from lpcc.cli.feeds import data_feeds, random_feeds
    from lpcc.door import files
    from lpcc.runtime import compare, measure

    model = files.read(a)
    other = None if b is None else files.read(b)
    if b is not None and other is not None:
        _check_same_inputs(a, model, b, other)
    if on is not None:
        from lpcc.cli.emulated import SAMPLES, emulated

        if data:
            samples = list(data_feeds(model, data, preprocess, SAMPLES))
        else:
            samples = [random_feeds(model, sizes, seed + number) for number in range(SAMPLES)]
        models = [(a, model)] if b is None or other is None else [(a, model), (b, other)]
        emulated(cpu, models, samples, terminal)
        return
    feeds = next(data_feeds(model, data, preprocess, 1)) if data else random_feeds(model, sizes, seed)
    first = _session(a, model, threads)
    result: dict[str, Any] = {"threads": threads, "inputs": {name: list(x.shape) for name, x in feeds.items()}}
    with terminal.progress() as step:

        def finished(share: float) -> None:
            step("running", round(1000 * share), 1000)

        if b is None or other is None:
            timing = measure(first, feeds, seconds=seconds, min_runs=pairs, progress=finished)
            result["a"] = {"model": str(a), **timing.to_json()}
            lines = _one(str(a), timing)
        else:
            second = _session(b, other, threads)
            both = compare(first, second, feeds, seconds=seconds, min_pairs=pairs, progress=finished)
            result |= both.to_json()
            result["a"] = {"model": str(a), **both.a.to_json()}
            result["b"] = {"model": str(b), **both.b.to_json()}
            lines = _two(str(a), str(b), both)
    terminal.write_json(result)
    terminal.show(lines)


def _processor(context: typer.Context, on: str) -> str:
    """The processor to emulate, once options that have no meaning then are refused."""
    from lpcc.cli.emulated import processor

    for name in ("threads", "seconds", "pairs"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--{name} is for timing: --on counts the instructions of one run, in one thread")
    return processor(on)


def _check_same_inputs(a: Path, first: onnx.ModelProto, b: Path, second: onnx.ModelProto) -> None:
    from lpcc.runtime.spec import TensorSpec, unlike

    found = unlike(TensorSpec.inputs_of(second), TensorSpec.inputs_of(first))
    if found is not None:
        raise ModelError(f"{b}: takes {found[0]}, {a} takes {found[1]}: both must take the same inputs")


def _session(path: Path, model: onnx.ModelProto, threads: int) -> Session:
    from lpcc.runtime import Session

    try:
        return Session(model, threads=threads)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _one(name: str, timing: Timing) -> Iterator[str | tuple[str, str]]:
    from lpcc.report import units

    yield (
        f"{name}: median {units.ms(timing.median_ms)}, spread {units.ms(timing.spread_ms)}, "
        f"fastest {units.ms(timing.fastest_ms)} of {timing.runs} runs"
    )


def _two(a: str, b: str, both: Comparison) -> Iterator[str | tuple[str, str]]:
    yield from _one(f"A {a}", both.a)
    yield from _one(f"B {b}", both.b)
    word = "faster" if both.ratio < 1 else "slower"
    factor = 1 / both.ratio if both.ratio < 1 else both.ratio
    yield (f"B / A: {both.ratio:.3f}, spread {both.ratio_spread:.3f}, {both.pairs} pairs", "bold")
    yield f"B is {factor:.2f}x {word}" if abs(both.ratio - 1) > both.ratio_spread / 2 else "no clear difference"

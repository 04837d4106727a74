"""``lpcc inspect --factorize``: what each layer could become in factors, before anything is done."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcc.errors import UsageError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from lpcc.cli.terminal import Terminal
    from lpcc.data import Dataset
    from lpcc.pipeline.proposals import Proposal, Proposals, ProposesFactors
    from lpcc.target import Target

ERROR = 0.05
"""Share of its energy that a layer may lose, where nobody says."""
_BY_WEIGHTS = "what is lost is counted in weights; with images (--calib) in what layers make of them, which tells more"


@dataclass(frozen=True)
class Wish:
    """What the command line asks of the factors."""

    item: ProposesFactors
    error: float
    calib: str | None
    preprocess: Path | None

    def found(self, graph: gs.Graph, target: Target, sizes: Mapping[str, int], terminal: Terminal) -> Proposals:
        """What the layers can become as the pass finds them: after the exact passes, which do not change `graph`.

        Raises:
            DataError: the images do not fit the model.
        """
        from lpcc.analysis.types import annotate
        from lpcc.graph import clone
        from lpcc.pipeline import Context, Pipeline
        from lpcc.pipeline.runner import run_pipeline

        exact, data = clone(graph), self._images(graph)
        run_pipeline(exact, Pipeline.parse("exact"), Context())
        annotate(exact)
        with terminal.progress() as step:
            ctx = Context(target=target, calibration=data, progress=step)
            return self.item.proposals(exact, ctx, self.error, sizes)

    def _images(self, graph: gs.Graph) -> Dataset | None:
        if self.calib is None:
            return None
        from lpcc.data import Dataset
        from lpcc.graph import to_proto
        from lpcc.runtime import TensorSpec

        return Dataset.open(self.calib, TensorSpec.inputs_of(to_proto(graph)), self.preprocess)


def wish(
    factorize: bool,
    method: str | None,
    error: float | None,
    calib: str | None,
    preprocess: Path | None,
) -> Wish | None:
    """The options of the command line; None where nothing is asked.

    Raises:
        UsageError: options that would have no effect, an error that is no share, no such method.
    """
    given = {"--method": method, "--error": error, "--calib": calib, "--preprocess": preprocess}
    for option, value in given.items():
        if value is not None and not factorize:
            raise UsageError(f"{option} {value}: has no effect without --factorize")
    if not factorize:
        return None
    if preprocess is not None and calib is None:
        raise UsageError(f"--preprocess {preprocess}: is for the images of --calib, and there are none")
    if error is not None and not 0 < error < 1:
        raise UsageError(f"--error {error:g}: expected a share above 0 and below 1, such as {ERROR}")
    limit = ERROR if error is None else error
    return Wish(_pass(method, limit), limit, calib, preprocess)


def _pass(method: str | None, error: float) -> ProposesFactors:
    """What factorises. Raises UsageError where it has no such method."""
    from lpcc.pipeline.known import known_passes

    kind: Any = known_passes()["factorize"]
    options: dict[str, Any] = {"error": error}
    if method is not None:
        options["method"] = tuple(dict.fromkeys(name.strip() for name in method.split(",")))
    try:
        found: ProposesFactors = kind(**options)
    except ValueError as wrong:
        raise UsageError(f"--method {method}: {wrong}") from None
    return found


def factors_to_plain(asked: Wish, found: Proposals) -> dict[str, Any]:
    """What layers could become as plain data."""
    from lpcc.report.plain import to_plain

    plain: dict[str, Any] = to_plain(
        {
            "error": asked.error,
            "latency_ms": {"before": found.total.latency_ms, "after": found.latency_ms},
            "macs": {"before": found.total.macs, "after": found.macs},
            "layers": [
                {
                    "layer": each.layer,
                    "method": each.method,
                    "rank": list(each.rank),
                    "error": each.error,
                    "error_of": "outputs" if each.of_outputs else "weights",
                    "speedup": each.speedup,
                    "before": each.before,
                    "after": each.after,
                }
                for each in found.layers
            ],
            "left": dict(found.left),
        }
    )
    return plain


def factor_lines(asked: Wish, found: Proposals, width: int) -> Iterator[str | tuple[str, str]]:
    """A table of what layers could become, what that gains together, and why others are left alone."""
    from lpcc.report.table import Column, table

    columns = [
        Column("layer", elastic=True, tail=True),
        Column("method"),
        Column("rank", right=True),
        Column("error", right=True),
        Column("time", right=True, drop=2),
        Column("then", right=True, drop=2),
        Column("faster", right=True),
        Column("MACs left", right=True, drop=1),
        Column("params left", right=True, drop=3),
    ]
    yield ""
    title = f"the fastest factors that lose at most {100 * asked.error:g} % of a layer, after the exact passes"
    yield from ((line, "bold") for line in textwrap.wrap(title, width))
    if found.layers:
        yield from table(columns, [_row(each) for each in found.layers], width)
    yield from textwrap.wrap(_together(found), width, subsequent_indent="  ")
    reasons: dict[str, list[str]] = {}
    for layer, reason in found.left.items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        text = f"{', '.join(layers)} {'stays' if len(layers) == 1 else 'stay'} whole: {reason}"
        yield from textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
    yield from textwrap.wrap(f"note: {_counted(asked, found)}", width, subsequent_indent="  ")


def _row(each: Proposal) -> list[str]:
    from lpcc.report import units

    before, after = each.before, each.after
    return [
        each.layer,
        each.method,
        "x".join(map(str, each.rank)),
        f"{100 * each.error:.1f} %",
        units.ms(before.latency_ms),
        units.ms(after.latency_ms),
        f"{each.speedup:.2f}x",
        f"{100 * after.macs / before.macs:.0f} %" if before.macs else "",
        f"{100 * after.weight_bytes / before.weight_bytes:.0f} %" if before.weight_bytes else "",
    ]


def _together(found: Proposals) -> str:
    from lpcc.report import units

    if not found.layers:
        return "no layer gets faster within that"
    before, after = found.total, found.latency_ms
    several = "1 layer" if len(found.layers) == 1 else f"{len(found.layers)} layers, together"
    gain = f", {before.latency_ms / after:.2f} times as fast" if after > 0 else ""
    share = f", {100 * found.macs / before.macs:.0f} % of the MACs" if before.macs else ""
    return f"{several}: {units.ms(before.latency_ms)} to {units.ms(after)}{gain}{share}"


def _counted(asked: Wish, found: Proposals) -> str:
    """Of what errors are shares, and what they say."""
    if asked.calib is None:
        return _BY_WEIGHTS
    by_weights = [each.layer for each in found.layers if not each.of_outputs]
    named = f", but of {', '.join(by_weights)} of weights" if by_weights else ""
    return f"error is the share of the energy of what a layer makes of the images that is lost{named}"

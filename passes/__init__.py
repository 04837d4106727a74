"""The passes that come with lpcc, a folder for each technique."""

from __future__ import annotations

from typing import Final

from lpcc.passes.equalize import AbsorbBias, Equalize
from lpcc.passes.factorize import Factorize, LearnRanks
from lpcc.passes.low_bit import QuantizeWeights
from lpcc.passes.normalize import (
    EliminateCommon,
    EliminateDeadCode,
    FoldAffine,
    FoldBatchNorm,
    FoldConstants,
    FreezeInputs,
    FuseMatMulAdd,
    LiftConstants,
    MergePad,
    RaiseOpset,
    RecogniseActivations,
    RecogniseChannelShuffle,
    RecogniseLayerNorm,
    RemoveNoops,
    ResolveShapes,
    Schedule,
)
from lpcc.passes.precision import MixedPrecision
from lpcc.passes.prune import PruneChannels, RemoveDeadChannels, Trim
from lpcc.passes.quantize import Quantize
from lpcc.passes.repair import AdaRound, CorrectBias, RecalibrateBatchNorm, Refit, RoundWeights
from lpcc.passes.transfer import Distill
from lpcc.pipeline import Pass

__all__ = [
    "BUILTIN",
    "NAMED",
    "PRESETS",
    "AbsorbBias",
    "AdaRound",
    "CorrectBias",
    "Distill",
    "EliminateCommon",
    "EliminateDeadCode",
    "Equalize",
    "Factorize",
    "FoldAffine",
    "FoldBatchNorm",
    "FoldConstants",
    "FreezeInputs",
    "FuseMatMulAdd",
    "LearnRanks",
    "LiftConstants",
    "MergePad",
    "MixedPrecision",
    "PruneChannels",
    "Quantize",
    "QuantizeWeights",
    "RaiseOpset",
    "RecalibrateBatchNorm",
    "RecogniseActivations",
    "RecogniseChannelShuffle",
    "RecogniseLayerNorm",
    "Refit",
    "RemoveDeadChannels",
    "RemoveNoops",
    "ResolveShapes",
    "RoundWeights",
    "Schedule",
    "Trim",
]

BUILTIN: Final[tuple[type[Pass], ...]] = (
    FreezeInputs,
    LiftConstants,
    RaiseOpset,
    FoldConstants,
    ResolveShapes,
    RemoveNoops,
    FoldBatchNorm,
    FoldAffine,
    MergePad,
    FuseMatMulAdd,
    RecogniseActivations,
    RecogniseLayerNorm,
    RecogniseChannelShuffle,
    EliminateCommon,
    EliminateDeadCode,
    Schedule,
    RemoveDeadChannels,
    PruneChannels,
    Trim,
    Factorize,
    LearnRanks,
    Equalize,
    AbsorbBias,
    Quantize,
    MixedPrecision,
    QuantizeWeights,
    CorrectBias,
    AdaRound,
    RoundWeights,
    Refit,
    RecalibrateBatchNorm,
    Distill,
)
"""All of them, in the order in which `lpcc passes` lists them."""

NAMED: Final[dict[str, str]] = {
    # Shapes come before and after the constants: a size may depend on a folded value, and the reverse. Dead readers go
    # before the patterns, which ask for a single one. A hard sigmoid is looked for before its constants are folded.
    "exact": (
        "freeze-inputs,lift-constants,raise-opset,fold-constants,resolve-shapes,fold-constants,resolve-shapes,"
        "remove-noops,dce,merge-pad,recognise-layer-norm,recognise-activations,fuse-matmul-add,fold-bn,fold-affine,"
        "recognise-channel-shuffle,dce,cse,dce"
    ),
    # Measured on five classifiers (docs/ranges.md, docs/repair.md): what asks the layers takes seconds, what asks the
    # network up to a minute; rounding by what the images say gains 0.4 to 2.3 dB on top of it, and ranges by channel,
    # where depthwise convolutions give them for nothing, 0.6 dB.
    "fast": "equalize{by=depthwise},quantize{ranges=output}",
    "accurate": "equalize{by=depthwise},quantize,round-weights",
}
"""Pipelines with a name of their own."""

PRESETS: Final[tuple[str, ...]] = ("fast", "accurate")
"""Those of them that may stand for `quantize` in a target's pipeline: `lpcc optimize --preset`."""

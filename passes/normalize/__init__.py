"""Exact passes that bring what exporters write into one normal form, which the other passes look for."""

from __future__ import annotations

from lpcc.passes.normalize.eliminate_common import EliminateCommon
from lpcc.passes.normalize.eliminate_dead_code import EliminateDeadCode
from lpcc.passes.normalize.fold_affine import FoldAffine
from lpcc.passes.normalize.fold_batch_norm import FoldBatchNorm
from lpcc.passes.normalize.fold_constants import FoldConstants
from lpcc.passes.normalize.freeze_inputs import FreezeInputs
from lpcc.passes.normalize.fuse_matmul_add import FuseMatMulAdd
from lpcc.passes.normalize.lift_constants import LiftConstants
from lpcc.passes.normalize.merge_pad import MergePad
from lpcc.passes.normalize.raise_opset import RaiseOpset
from lpcc.passes.normalize.recognise_activations import RecogniseActivations
from lpcc.passes.normalize.recognise_channel_shuffle import RecogniseChannelShuffle
from lpcc.passes.normalize.recognise_layer_norm import RecogniseLayerNorm
from lpcc.passes.normalize.remove_noops import RemoveNoops
from lpcc.passes.normalize.resolve_shapes import ResolveShapes
from lpcc.passes.normalize.schedule import Schedule

__all__ = [
    "EliminateCommon",
    "EliminateDeadCode",
    "FoldAffine",
    "FoldBatchNorm",
    "FoldConstants",
    "FreezeInputs",
    "FuseMatMulAdd",
    "LiftConstants",
    "MergePad",
    "RaiseOpset",
    "RecogniseActivations",
    "RecogniseChannelShuffle",
    "RecogniseLayerNorm",
    "RemoveNoops",
    "ResolveShapes",
    "Schedule",
]

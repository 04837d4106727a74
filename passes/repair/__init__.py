"""Repairs behind `quantize`: biases and roundings that bring the quantised network closer to the float one."""

from __future__ import annotations

from lpcc.passes.repair.adaround import AdaRound
from lpcc.passes.repair.correct_bias import CorrectBias
from lpcc.passes.repair.recalibrate_bn import RecalibrateBatchNorm
from lpcc.passes.repair.refit import Refit
from lpcc.passes.repair.round_weights import RoundWeights

__all__ = ["AdaRound", "CorrectBias", "RecalibrateBatchNorm", "Refit", "RoundWeights"]

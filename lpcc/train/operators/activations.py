"""Activations: functions of each element."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lpcc.train.operators.call import Lowering, always

STANDARD: Mapping[str, Lowering] = {"Relu": always(torch.relu)}

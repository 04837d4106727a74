from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcc.emulate import Counts, Emulator, Folder, check, ratios
from lpcc.errors import ModelError


def test_a_model_that_only_this_host_takes(
    stand_in: Callable[..., Path], ready: Folder, network: onnx.ModelProto
) -> None:
    emulator = Emulator(stand_in("print(json.dumps({'error': 'opset 99 is not supported'}), flush=True)"), ready)
    with (
        emulator.plain_machine("cortex-a72") as machine,
        pytest.raises(
            ModelError, match=r"^runs on this host \(onnxruntime .*\), but onnxruntime 1.27.0 for aarch64: opset 99"
        ),
    ):
        check(machine, network, [{"x": np.zeros((1, 3, 16, 16), np.float32)}])


def test_ratios_leave_out_what_the_first_has_none_of() -> None:
    assert ratios(Counts({"scalar": 4}), Counts({"scalar": 3, "dot": 3})) == {"total": 1.5, "other": 0.75}

from __future__ import annotations

import pytest

from lpcc.report import Figures, LayerReport, PassReport, Quality, RefusalReport, Report, Verdict


@pytest.fixture
def report() -> Report:
    """The report of a made-up optimisation with a bit of everything."""
    return Report(
        model="net.onnx",
        output="net.x86.onnx",
        target="x86",
        pipeline="exact,quantize",
        seed=3,
        versions={"lpcc": "1"},
        seconds=4.2,
        before=Figures(72, 270_000, 41_200_000, 1_080_000, 1_100_000, 12.3, 15.0, 196_608),
        after=Figures(31, 268_000, 41_200_000, 271_000, 333_000, 5.1, 6.2, 49_152),
        quality=Quality("top1", 500, 91.9, 91.7, 0.2, 98.2, 27.1, "real", 1.0),
        passes=(
            PassReport("fold-bn", {}, 0.01, {"batch norm folded": 21}, ()),
            PassReport("cse", {}, 0.01, {}, (RefusalReport("a", "too large"),)),
            PassReport("dce", {}, 0.01),
            PassReport(
                "quantize",
                {"ranges": "mse", "skip": ["b"]},
                3.1,
                {f"{op} in int8": 3 for op in ("Conv", "Add", "Slice", "Pad", "Gemm")},
                tuple(RefusalReport(f"n{i}", "no kernel") for i in range(7)),
            ),
        ),
        layers=(LayerReport("conv1", "Conv", "float32", "u8s8", 31.5, 442_000, 0.5, 0.2, "float: went back, 9.1 dB"),),
        verdict=Verdict("partly", True, ("`b` went back to float: 9.1 dB",), 2.41, False),
        notes=("dimension N of input x taken as 1",),
    )

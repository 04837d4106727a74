from __future__ import annotations

import pytest

from lpcc.report import Figures, LayerReport, PassReport, Quality, RefusalReport, Report, Verdict, WorstReport


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
        before=Figures(
            72, 270_000, 41_200_000, 1_080_000, 1_100_000, 12.3, 15.0, 196_608, {"float32": 1_080_000}, 32.0
        ),
        after=Figures(
            31, 268_000, 41_200_000, 271_000, 333_000, 5.1, 6.2, 49_152, {"int8": 260_000, "float32": 11_000}, 8.31
        ),
        quality=Quality("top1", 500, 91.9, 91.7, 0.2, 98.2, 27.1, "real", 1.0, emulated="arm"),
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
        layers=(
            LayerReport("conv1", "Conv", "float32", "u8s8", 31.5, 442_000, 0.5, 0.2, "float: went back, 9.1 dB", 6.0),
            LayerReport("conv2", "Conv", "float32", "u8s8", 24.0, 442_000, 0.5, 0.2, "", 12.0, 0.001, 30.0),
        ),
        verdict=Verdict("partly", True, ("`b` went back to float: 9.1 dB",), 2.41, False),
        notes=("dimension N of input x taken as 1",),
        worst=(
            WorstReport("conv2", 24.0, 12.0, "weights", "its weights are coarse", "--preset accurate, or --keep conv2"),
            WorstReport("conv1", 31.5, 6.0, "resolution", "8 bits are coarse for its input", "--keep conv1"),
        ),
    )

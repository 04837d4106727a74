"""The rules of each runtime: what it fuses, which kernel it picks, how it reads Q/DQ and lays data out."""

from __future__ import annotations

from collections.abc import Iterable

from lpcc.analysis.runtimes.accelerator import Accelerator
from lpcc.analysis.runtimes.base import Facts, IntegerRules, MemoryRules, Runtime
from lpcc.analysis.runtimes.cmsis_nn import CmsisNn
from lpcc.analysis.runtimes.ncnn import Ncnn
from lpcc.analysis.runtimes.onnxruntime import OnnxRuntime
from lpcc.analysis.runtimes.tflite import Tflite
from lpcc.analysis.runtimes.vela import Vela
from lpcc.analysis.runtimes.x_cube_ai import XCubeAi

__all__ = ["RUNTIMES", "Facts", "IntegerRules", "MemoryRules", "Runtime", "runtime_of"]

RUNTIMES: dict[str, type[Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "ncnn": Ncnn,
    "tflite": Tflite,
    "cmsis-nn": CmsisNn,
    "x-cube-ai": XCubeAi,
    "vela": Vela,
    "none": Accelerator,
}
"""By the name that a target gives; ``none`` stands for accelerators, which run what their own compiler made."""


def runtime_of(name: str, isa: Iterable[str] = ()) -> Runtime:
    """The runtime of that name on a processor with these instruction sets. Raises KeyError for another name."""
    return RUNTIMES[name](frozenset(isa))

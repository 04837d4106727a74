"""Rows of ncnn's kernel tables: terms of a kernel's shape, the coefficients they share, and where their fit starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LARGE = 500_000
"""Bytes of a tensor from which on it counts as not cached."""
_CACHED = 300_000
"""The same for what is read with a stride over and over."""

FLOAT, INT8 = "float", "int8"
_SIDES = ("cin", "cout")


@dataclass(frozen=True)
class Row:
    """One row of a kernel table: `unit` x the coefficient `name` counts for each unit of `term`.

    `unit` is meant for floats of 4 bytes.
    """

    name: str
    kind: str
    dtype: str
    term: str
    unit: float = 1.0


def _products(dtype: str, mark: str) -> list[Row]:
    """Rows of kernels that multiply; in int8 and in float these are different coefficients."""
    tiles: list[tuple[str, str, float]] = [("ceil(oh/4)*ceil(ow/4)", "", 36)]
    if dtype == FLOAT:
        small = "[cin<129&cout<129]"
        tiles = [("ceil(oh/6)*ceil(ow/6)", f"*{small}", 64), (tiles[0][0], f"*!{small}", 36)]
    rows: list[tuple[str, str, str, float]]
    rows = [("wino_mac", "winograd", f"{tile}*cin*cout{when}", size) for tile, when, size in tiles]
    rows += [("wino_move", "winograd", f"{tile}*{side}{when}", size) for tile, when, size in tiles for side in _SIDES]
    rows += [
        ("wino_weight", "winograd", "cin*cout", 36),
        ("point_mac", "pointwise", "ceil(pixels/4)*ceil(cout/4)*cin", 16),
        ("point_in", "pointwise", "pixels*cin", 1),
        ("point_out", "pointwise", "pixels*cout", 1),
        ("point_weight", "pointwise", "cin*cout", 1),
        *(_dense() if dtype == FLOAT else _gemm("")),
        ("depth3", "depthwise", "macs*[kw<4&sw=1]", 1),
        ("depth3_stride", "depthwise", "macs*[kw<4&sw>1]", 1),
        ("depth5", "depthwise", "macs*[kw=5&sw=1]", 1),
        ("depth5_stride", "depthwise", "macs*[kw=5&sw>1]", 1),
        ("depth7", "depthwise", "macs*[kw>5]", 1),
        ("depth_in", "depthwise", "groups*ih*iw", 1),
        ("full_weight", "gemm", "macs", 1),
    ]
    return [Row(mark + name, kind, dtype, term, unit) for name, kind, term, unit in rows]


def _gemm(when: str) -> list[tuple[str, str, str, float]]:
    """Convolutions by im2col run the same product as those of 1x1."""
    return [
        ("point_mac", "conv", f"ceil(pixels/4)*ceil(cout/4)*depth{when}", 16),
        ("conv_column", "conv", f"pixels*depth{when}", 1),
        ("point_out", "conv", f"pixels*cout{when}", 1),
        ("point_weight", "conv", f"depth*cout{when}", 1),
    ]


def _dense() -> list[tuple[str, str, str, float]]:
    """Convolutions of floats: images and large windows have kernels without im2col."""
    return [
        ("stem_mac", "conv", "macs*[cin<4]", 1),
        ("stem_out", "conv", "pixels*cout*[cin<4]", 1),
        ("direct_mac", "conv", "ceil(pixels/4)*ceil(cout/4)*depth*[cin>3&taps>24]", 16),
        ("point_out", "conv", "pixels*cout*[cin>3&taps>24]", 1),
        *_gemm("*[cin>3&taps<25]"),
    ]


def _elements() -> list[Row]:
    rows = [
        ("point_mac", "grouped", "ceil(pixels/4)*ceil(cout/4)*cin*groups*[taps=1]", 16),
        ("point_in", "grouped", "pixels*cin*groups*[taps=1]", 1),
        ("point_out", "grouped", "pixels*cout*groups*[taps=1]", 1),
        ("wino_mac", "grouped", "ceil(oh/6)*ceil(ow/6)*cin*cout*groups*[taps=9&sw=1]", 64),
        ("wino_move", "grouped", "ceil(oh/6)*ceil(ow/6)*cin*groups*[taps=9&sw=1]", 64),
        ("wino_move", "grouped", "ceil(oh/6)*ceil(ow/6)*cout*groups*[taps=9&sw=1]", 64),
        ("wino_weight", "grouped", "cin*cout*groups*[taps=9&sw=1]", 64),
        ("direct_mac", "grouped", "pixels*depth*cout*groups*![taps=9&sw=1]*[taps>1]", 1),
        ("conv_column", "grouped", "pixels*depth*groups*![taps=9&sw=1]*[taps>1]", 1),
        ("group_move", "grouped", "pixels*groups*cout", 1),
        ("group_move", "grouped", "ih*iw*groups*cin", 1),
        ("group_call", "grouped", "groups", 1),
        ("binary", "elementwise", "elements*[inputs>1]", 1),
        ("unary", "elementwise", "elements*[inputs<2]", 1),
        ("exp", "activation", "elements", 1),
        ("pool", "pool", "elements*is(MaxPool)", 1),
        ("pool", "pool", "elements*is(AveragePool)", 1),
        ("reduce", "pool", "elements*is(GlobalAveragePool)", 1),
        ("reduce", "pool", "elements*is(GlobalMaxPool)", 1),
        ("reduce", "reduce", "elements", 1),
        ("copy", "concat", "elements", 1),
        ("copy", "copy", "elements", 1),
        ("permute", "transpose", "elements", 1),
        ("resize", "resize", "elements", 4),
        ("softmax", "softmax", "elements", 1),
        ("norm", "norm", "elements", 1),
        ("resize", "other", "output_bytes", 1 / 4),
        ("detect", "other", "input_bytes*is(DetectionOutput)", 1 / 4),
        ("detect_line", "other", f"input_bytes*is(DetectionOutput)*[input_bytes>{_CACHED}]", 1 / 4),
    ]
    return [Row(name, kind, FLOAT, term, unit) for name, kind, term, unit in rows]


def _large(kind: str, dtype: str) -> list[Row]:
    read = (
        (f"input_bytes*[input_bytes>{_LARGE // 4}]", 1.0)
        if dtype == INT8
        else (f"input_bytes*[input_bytes>{_LARGE}]", 1 / 4)
    )
    return [
        Row("large", kind, dtype, read[0], read[1]),
        Row("large", kind, dtype, f"output_bytes*[output_bytes>{_LARGE}]", 1 / 4),
    ]


def _rows() -> tuple[Row, ...]:
    rows = [*_products(FLOAT, ""), *_products(INT8, "i8_"), *_elements()]
    rows += [Row("quantize", kind, INT8, "elements") for kind in ("quantize", "dequantize")]
    for kind, dtype in dict.fromkeys((row.kind, row.dtype) for row in rows):
        if kind not in ("quantize", "dequantize"):
            rows.append(Row("call", kind, dtype, "one"))
            if kind != "other":
                rows += _large(kind, dtype)
    return tuple(rows)


ROWS = _rows()


_PRIOR = {
    "wino_mac": 0.35, "wino_move": 4.0, "wino_weight": 1.5, "point_mac": 0.35, "point_in": 0.8, "point_out": 0.8,
    "point_weight": 1.0, "stem_mac": 0.45, "stem_out": 2.0, "direct_mac": 0.4, "conv_column": 1.5,
    "depth3": 0.9, "depth3_stride": 1.5, "depth5": 0.6, "depth5_stride": 1.2, "depth7": 1.8, "depth_in": 1.5,
    "full_weight": 1.5,
    "group_move": 2.0, "group_call": 2000.0, "binary": 3.0, "unary": 2.0,
    "exp": 20.0, "pool": 1.5, "reduce": 1.5, "copy": 3.0, "permute": 5.0, "resize": 6.0, "softmax": 20.0, "norm": 30.0,
    "detect": 8.0, "detect_line": 80.0, "quantize": 1.0, "call": 6000.0, "large": 2.0,
}  # fmt: skip
"""Cycles of an in-order core without half precision, where the fit starts: rough guesses.

Those of products, depthwise kernels, functions and detections follow ncnn's source (instructions a vector, cache lines
read); the others are what such loops usually cost, and some were changed where boards disagreed.
"""
_GROUPS = {
    "winograd": ("wino_mac", "wino_move"),
    "arithmetic": (
        *("point_mac", "point_in", "point_out", "stem_mac", "stem_out", "direct_mac", "conv_column"),
        *("exp", "softmax", "norm", "detect"),
    ),
    "depthwise": ("depth3", "depth3_stride", "depth5", "depth5_stride", "depth7", "depth_in"),
    "weights": ("wino_weight", "point_weight", "full_weight"),
    "grouped": ("group_move", "group_call"),
    "elements": ("binary", "unary", "pool", "reduce", "copy", "permute", "resize"),
    "large": ("large", "detect_line"),
    "call": ("call",),
}
_SCALAR = ("call", "group_call", "norm", "detect", "detect_line")
NAMES = tuple(dict.fromkeys(row.name for row in ROWS))


def _group(name: str) -> str:
    if name == "quantize":
        return "int8"
    if name.startswith("i8_"):
        own = {"wino_mac", "wino_move", "wino_weight"}
        plain = name.removeprefix("i8_")
        return "int8 winograd" if plain in own else "int8 depthwise" if plain.startswith("depth") else "int8"
    return next(group for group, names in _GROUPS.items() if name in names)


_ALL_GROUPS = tuple(dict.fromkeys(_group(name) for name in NAMES))
GROUP_OF = np.array([_ALL_GROUPS.index(_group(name)) for name in NAMES])
_BYTES = ("point_in", "conv_column", "depth_in", "point_weight", "full_weight")


def _start(name: str) -> float:
    """In int8, what only moves bytes costs less than half, and what multiplies hardly less."""
    plain = name.removeprefix("i8_")
    return _PRIOR[plain] * (1.0 if plain == name else 0.4 if plain in _BYTES else 0.8)


START = np.array([_start(name) for name in NAMES])
INDEX = np.array([NAMES.index(row.name) for row in ROWS])


def unit(row: Row, *, half: bool) -> float:
    """Vectors hold twice as many numbers in half precision; bytes stay bytes, and scalar code as slow as it is."""
    if not half:
        return row.unit
    scalar, as_bytes = row.name in _SCALAR, row.unit == 1 / 4
    return row.unit * (2 if scalar and as_bytes else 1 if scalar or as_bytes else 1 / 2)

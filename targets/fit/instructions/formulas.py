"""What the instructions of each kernel of onnxruntime on aarch64 depend on: the terms that are fitted.

The structure is that of its library MLAS. Float convolutions are matrix products of the weights and of columns that are
gathered from the image (`im2col`), packed by 16, and multiplied in tiles of 4, 2 or 1 rows and 16 or 8 columns; except
3x3 depthwise ones at stride 1, which run directly, and other depthwise ones, which take a matrix-vector kernel. Integer
convolutions have channels last: rows of pixels by packed columns of output channels.
"""

from __future__ import annotations

from collections.abc import Mapping

Formula = Mapping[str, tuple[str, ...]]
"""Terms by class of instructions; ``total`` stands for all of them, counted as ``other``."""

_EACH = "*groups*batch"
_AFTER = ("Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Clip", "Relu", "Add")
_DIRECT = "[kh=3&kw=3&sw=1&dw=1&cout=1]"
"""Depthwise convolutions that MLAS runs without gathering columns."""


def _fused(*names: str) -> tuple[str, ...]:
    return tuple(f"has({name})*elements" for name in names)


def _gather(condition: str = "") -> tuple[str, ...]:
    """Gathering the columns of an image: for each position of the window and row of the output."""
    each = _EACH + condition
    return (
        f"depth{each}",
        f"oh*depth{each}",
        f"pixels*depth{each}",
        *(f"oh*depth*[ow%4={left}&sw=1&kw>1]{each}" for left in (0, 2, 3)),
        f"pixels*depth*[sw>1]{each}",
    )


def _product(rows: str, columns: str, depth: str, each: str) -> tuple[str, ...]:
    """Tiles of 4, 2 or 1 rows by 16 or 8 columns; sums are stored for each 128 of the depth."""
    return (
        f"ceil({columns}/16)*{rows}*{depth}{each}",
        f"ceil({columns}/16)*blocks({rows},4)*{depth}{each}",
        f"ceil({columns}/8)*blocks({rows},4)*{depth}{each}",
        f"ceil({columns}/16)*{rows}*ceil({depth}/128){each}",
    )


def _packed(each: str) -> tuple[str, ...]:
    """Packing columns by 16."""
    return (f"floor(pixels/16)*depth{each}", f"![pixels%16=0]*depth{each}")


_CONV: Formula = {
    "mac": (f"ceil(pixels/8)*cout*depth{_EACH}", *_fused(*_AFTER[:3])),
    "other": (
        "one",
        "groups*batch",
        f"cout{_EACH}",
        "elements",
        *_fused(*_AFTER),
        *_product("cout", "pixels", "depth", _EACH),
        *_packed(_EACH),
        *_gather(),
    ),
}

_POINTWISE: Formula = {
    "mac": _CONV["mac"],
    "other": (
        "one",
        "batch",
        "cout*batch",
        "elements",
        *_fused(*_AFTER),
        *_product("cout", "pixels", "depth", "*batch"),
        *_packed("*batch"),
        "[sw>1]",
        "oh*depth*[sw>1]*batch",
        "pixels*depth*[sw>1]*batch",
    ),
}

_DEPTHWISE: Formula = {
    "mac": (
        f"pixels{_EACH}*{_DIRECT}",
        *(f"oh*[ow%4={left}]{_EACH}*{_DIRECT}" for left in (0, 1, 3)),
        f"oh{_EACH}*{_DIRECT}",
        f"ceil(pixels/4)*taps*[cout=1]{_EACH}*!{_DIRECT}",
        f"ceil(pixels/8)*cout*taps*[cout>1]{_EACH}",
        *_fused(*_AFTER[:3]),
    ),
    "other": (
        "one",
        "elements",
        *_fused(*_AFTER),
        f"groups*batch*{_DIRECT}",
        f"oh{_EACH}*{_DIRECT}",
        *(f"oh*[ow%4={left}]{_EACH}*{_DIRECT}" for left in (0, 1, 3)),
        f"elements*{_DIRECT}",
        f"cout{_EACH}*!{_DIRECT}",
        *_gather(f"*!{_DIRECT}"),
        f"floor(pixels/16)*taps*[cout=1]{_EACH}*!{_DIRECT}",
        f"ceil(pixels/16)*taps*[cout>1]{_EACH}",
    ),
}


def _by_operator(operators: str, *terms: str) -> tuple[str, ...]:
    return tuple(f"runs({op})*{term}" for op in operators.split() for term in terms)


_GEMM: Formula = {
    "mac": ("ceil(cout/8)*depth*rows",),
    "other": (
        "one",
        "rows",
        "elements",
        "cout*[rows=1]",
        "depth",
        *_product("rows", "cout", "depth", ""),
        "ceil(cout/16)*depth*[rows=1]",
    ),
}

_MATMUL: Formula = {
    "mac": ("ceil(cout/8)*depth*rows", "ceil(cout/4)*depth*batch*[oh=1]"),
    "other": (
        "one",
        "batch",
        "rows",
        "elements",
        *_product("oh", "cout", "depth", "*batch"),
        "floor(cout/16)*depth*batch",
        "![cout%16=0]*depth*batch",
    ),
}

FLOAT: Mapping[str, Formula] = {
    "conv": _CONV,
    "grouped": {
        "mac": _CONV["mac"],
        "other": (
            *_CONV["other"][: -len(_gather())],
            *_gather("*![kh=1&kw=1&sw=1]"),
        ),
    },
    "pointwise": _POINTWISE,
    "depthwise": _DEPTHWISE,
    "gemm": _GEMM,
    "matmul": _MATMUL,
    "rnn": {
        "mac": ("macs", "ceil(cout/16)*depth*oh*groups", "oh*cout*groups"),
        "other": (
            "one",
            "groups",
            "oh*groups",
            "oh*cout*groups",
            "macs",
            "depth*oh*groups",
            "ceil(cout/16)*depth*groups",
        ),
    },
    "elementwise": {
        "total": (
            "one",
            "elements",
            "groups",
            *_by_operator("Add Mul Sub Div Max Min Sum PRelu Where", "one"),
            *_by_operator("Add Mul Clip Sqrt HardSigmoid LeakyRelu ThresholdedRelu Sum PRelu Where Cast", "elements"),
        )
    },
    "activation": {
        "total": (
            "one",
            *_by_operator("Sigmoid Tanh Exp Log Erf Gelu Elu Selu Mish Softplus Pow", "elements"),
            "has(Mul)*elements",
            *_by_operator("Mish Pow", "one"),
        )
    },
    "pool": {
        "total": (
            "one",
            *_by_operator(
                "MaxPool AveragePool",
                "groups*batch",
                "oh*groups*batch*[sw<3]",
                "oh*iw*groups*batch*[sw<3]",
                "oh*iw*kh*groups*batch*[sw<3]",
                "oh*groups*batch*[iw%4>0&sw<3]",
                "oh*mod(iw,4)*groups*batch*[sw<3]",
                "elements*[sw>2]",
            ),
            *_by_operator("GlobalAveragePool GlobalMaxPool", "elements", "cin*batch"),
        )
    },
    "concat": {"total": ("one", "inputs", "elements", "groups*inputs*[groups>1]")},
    "copy": {
        "total": (
            "one",
            *_by_operator("Slice Pad Split Gather Expand Tile", "one", "elements", "groups"),
            *_by_operator("Expand Tile", "cin", "cin*ih"),
        )
    },
    "transpose": {
        "total": (
            "one",
            "elements*[cout=1&kh=1]",
            "elements*[cout>1]",
            "groups*[cout=2]",
            "groups*[cout>2]",
            "groups*[kh>1]",
            "runs(DepthToSpace)*elements",
        )
    },
    "resize": {
        "total": ("one", "elements*[kh=1]", "elements*[kh=2]", "cin*oh*[kh=1]", "oh*[kh=2]", "ow*[kh=2]", "cin*[kh=2]")
    },
    "reduce": {"total": ("one", "elements*[cout=1]", "groups*[cout=1]", "elements*[cout>1]", "groups*[cout>1]")},
    "softmax": {"total": ("one", "elements", "groups", "groups*mod(cin,4)", "elements*[cout>1]", "groups*[cout>1]")},
    "norm": {
        "total": (
            "one",
            *_by_operator("LayerNormalization", "elements", "cin*oh*batch"),
            *_by_operator("BatchNormalization InstanceNormalization LRN", "one", "elements", "cin*batch"),
        )
    },
}
"""Formulas of float kernels by kind."""


_AS_ROWS = "[taps=1&sw=1]"
"""Pointwise convolutions that read the image as it is."""


def _integer(tile: tuple[int, int, int], indirect: str) -> Formula:
    """Rows of pixels by columns of channels in tiles; windows are gathered, or read in place where `indirect` holds."""
    rows, columns, depth = tile
    tiles = f"ceil(pixels/{rows})*ceil(cout/{columns})*ceil(depth/{depth}){_EACH}"
    gathered = f"*!{_AS_ROWS}*!{indirect}"
    return {
        "mac": (f"{tiles}*!{indirect}", f"rows*ceil(cout/8)*taps*ceil(cin/8)*groups*{indirect}", f"{tiles}*{indirect}"),
        "other": (
            "one",
            "groups*batch",
            "cout*groups",
            f"{tiles}*!{indirect}",
            f"rows*ceil(cout/{columns})*ceil(depth/{depth})*groups*!{indirect}",
            f"ceil(pixels/{rows})*ceil(cout/{columns}){_EACH}",
            f"rows*ceil(depth/16)*groups*!{indirect}",
            f"rows*groups*!{indirect}",
            f"elements*!{indirect}",
            f"rows*ceil(cout/16)*groups*!{indirect}",
            f"rows*mod(cout,16)*groups*!{indirect}",
            f"rows*groups{gathered}",
            f"rows*kh*groups{gathered}",
            f"rows*taps*groups{gathered}",
            f"rows*taps*cin*groups{gathered}",
            f"{tiles}*{indirect}",
            f"rows*taps*{indirect}",
            f"elements*{indirect}",
        ),
    }


def _integer_depthwise() -> Formula:
    sym, other = "[groups%8=0&cout=1]", "[groups%8>0&cout=1]"
    return {
        "mac": (
            f"rows*taps*ceil(groups/8)*{sym}",
            f"rows*taps*groups*{other}",
            "rows*ceil(taps/16)*groups*cout*[cout>1]",
        ),
        "other": (
            "one",
            "rows",
            "rows*taps",
            *(f"rows*ceil(groups/16)*{sym}*{kind}" for kind in ("[taps=9]", "[taps=25]", "![taps=9]*![taps=25]")),
            *(f"rows*taps*ceil(groups/8)*{sym}*{kind}" for kind in ("[taps=9]", "[taps=25]", "![taps=9]*![taps=25]")),
            "groups",
            f"rows*taps*groups*{other}",
            f"rows*groups*{other}",
            f"rows*taps*mod(groups,8)*{other}",
            "rows*groups*[cout>1]",
            "rows*taps*groups*[cout>1]",
            "groups*[cout>1]",
            "ceil(pixels/4)*groups*batch*[cout>1]",
        ),
    }


def _integer_gemm(tile: tuple[int, int, int]) -> Formula:
    rows, columns, depth = tile
    tiles = f"ceil(rows/{rows})*ceil(cout/{columns})*ceil(depth/{depth})"
    return {
        "mac": (tiles,),
        "other": (
            "one",
            "rows",
            tiles,
            f"rows*ceil(cout/{columns})*ceil(depth/{depth})",
            f"ceil(rows/{rows})*ceil(cout/{columns})",
            "rows*depth",
            "cout",
            "elements",
            "rows*ceil(cout/16)",
            *_by_operator("Gemm", "one", "cout", "elements"),
        ),
    }


_SYM = "[taps>1&cin>63&cin%8=0&cout%8=0&groups=1]"
_SYM_DOT = "[taps>1&cin>63&cin%4=0&cout%16=0&groups=1]"

_INTEGER_MOVES: Mapping[str, Formula] = {
    "elementwise": {
        "total": (
            "one",
            "groups*[blocked=0]",
            "rows*[blocked=1&groups>1]",
            *_by_operator("Add Mul LeakyRelu", "elements"),
            *_by_operator("Add Mul", "one"),
        )
    },
    "activation": {"total": ("one", "elements")},
    "softmax": {"total": ("one", "elements", "groups", "elements*[cout>1]", "groups*[cout>1]")},
    "pool": {
        "total": (
            "one",
            *_by_operator(
                "MaxPool", "rows", "rows*taps", "rows*taps*ceil(groups/16)", "rows*taps*mod(groups,8)", "rows*groups"
            ),
            *_by_operator("AveragePool", "rows", "rows*taps", "rows*groups", "elements", "rows*taps*mod(groups,8)"),
            *_by_operator(
                "GlobalAveragePool",
                *("elements*[blocked=1]", "cin*batch*[blocked=1]", "ih*iw*batch*[blocked=1]"),
                *("elements*[blocked=0]", "cin*batch*[blocked=0]"),
            ),
        )
    },
    "concat": {"total": ("one", "inputs", "elements", "groups*inputs*[groups>1&blocked=0]", "inputs*rows*[blocked=1]")},
    "copy": FLOAT["copy"],
    "transpose": {
        "total": ("one", "elements*[cout=1]", "elements*[cout>1]", "groups*[cout>1&cout<9]", "groups*[cout>8]")
    },
    "resize": FLOAT["resize"],
    "quantize": {"total": ("one", "elements")},
    "dequantize": {"total": ("one", "elements")},
}

_CONVS = ("conv", "grouped", "pointwise")
_SCHEMES = ("s8s8", "u8s8")
_ARMV8 = (1, 4, 16)
_DOT = (4, 16, 16)
_DOT_PLAIN = (1, 8, 8)
"""Where activations are unsigned, or a product has no symmetric weights packed for it."""

INTEGER: Mapping[str, Mapping[tuple[str, str], Formula]] = {
    "armv8": {
        **{(kind, name): _integer(_ARMV8, _SYM) for kind in _CONVS for name in _SCHEMES},
        **{("depthwise", name): _integer_depthwise() for name in _SCHEMES},
        **{("gemm", name): _integer_gemm(_ARMV8) for name in _SCHEMES},
        **{(kind, "int8"): formula for kind, formula in _INTEGER_MOVES.items()},
    },
    "dotprod": {
        **{(kind, "s8s8"): _integer(_DOT, _SYM_DOT) for kind in _CONVS},
        **{(kind, "u8s8"): _integer(_DOT_PLAIN, _SYM_DOT) for kind in _CONVS},
        **{("depthwise", name): _integer_depthwise() for name in _SCHEMES},
        **{("gemm", name): _integer_gemm(_DOT_PLAIN) for name in _SCHEMES},
        **{(kind, "int8"): formula for kind, formula in _INTEGER_MOVES.items()},
    },
}
"""Formulas of integer kernels by instruction set, then by kind and number format."""

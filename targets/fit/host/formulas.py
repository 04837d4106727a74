"""What the time of a kernel may depend on: terms by kind. The fit keeps those that matter, coefficients above 0."""

from __future__ import annotations

from collections.abc import Mapping

from lpcc.cost.kinds import ELEMENT_KINDS, MAC_KINDS

_ALWAYS = ("one", "bytes", "[bytes>1000000]*bytes", "[bytes>4000000]*bytes")
_WEIGHTS = ("weight_bytes", "[weight_bytes>200000]*weight_bytes", "[weight_bytes>1000000]*weight_bytes")

_FLOAT: Mapping[str, tuple[str, ...]] = {
    # Blocks of 16 channels, up to 4 of them and 6 pixels at once; with few input channels another loop.
    "conv": (
        "ceil(cout/16)*depth*rows",
        "ceil(cout/64)*depth*rows",
        "ceil(cout/16)*depth*oh*ceil(ow/6)",
        "[cin<16]*ceil(cout/16)*depth*rows",
        "[cin<16]*ceil(cout/64)*depth*rows",
        "ceil(cout/16)*oh*kh",
        "output_bytes",
        "weight_bytes",
    ),
    "pointwise": (
        "ceil(cout/16)*depth*rows",
        "ceil(cout/64)*depth*rows",
        "ceil(cout/64)*depth*ceil(rows/6)",
        "[sw>1]*ceil(cout/64)*depth*rows",
        "input_bytes",
        "output_bytes",
        "weight_bytes",
    ),
    "depthwise": (
        "ceil(groups/16)*taps*rows",
        "ceil(groups/16)*taps*oh",
        "ceil(groups/16)*oh",
        "ceil(groups/16)*rows",
        "[sw>1]*ceil(groups/16)*taps*rows",
        "[dw>1]*ceil(groups/16)*taps*rows",
    ),
    "grouped": ("macs", "groups*ceil(cout/16)*depth*rows", "groups*depth*rows", "groups"),
    "gemm": ("macs", "ceil(cout/16)*depth*rows", "[rows=1]*macs", "weight_bytes"),
    "matmul": ("macs", "batch*oh*ceil(cout/16)*depth", "batch", "batch*depth*cout"),
    "rnn": ("macs", "batch*oh*weight_bytes", "rows*cout", "rows"),
}

_INTEGER: Mapping[str, tuple[str, ...]] = {
    # Products of 4 bytes, 16 channels at once; windows are gathered first, sums turned into bytes last.
    "conv": (
        "ceil(cout/16)*ceil(depth/4)*rows",
        "ceil(cout/16)*ceil(depth/4)*ceil(rows/6)",
        "rows*depth",
        "rows*taps",
        "rows*cout",
        "rows",
        "weight_bytes",
    ),
    "pointwise": (
        "ceil(cout/16)*ceil(depth/4)*rows",
        "ceil(cout/16)*ceil(depth/4)*ceil(rows/6)",
        "rows*depth",
        "rows*cout",
        "rows",
        "weight_bytes",
    ),
    "depthwise": (
        "ceil(groups/16)*taps*rows",
        "[taps=9]*ceil(groups/16)*rows",
        "rows*taps",
        "rows",
        "elements",
        "mod(groups,16)*taps*rows",
        "mod(groups,8)*taps*rows",
        "[taps=25]*ceil(groups/16)*rows",
    ),
    "grouped": ("macs", "groups*rows*depth", "groups*rows*cout", "groups*rows", "groups"),
    "gemm": ("macs", "ceil(cout/16)*ceil(depth/4)*rows", "weight_bytes", "elements"),
    "matmul": ("macs", "batch*oh*ceil(cout/16)*depth", "batch", "batch*depth*cout", "elements"),
}


_ANY: Mapping[str, tuple[str, ...]] = {
    # Other kernels: what they read and write, and what sets single operators apart.
    "transpose": (
        "[cin=16]*elements",
        "[cin=1&cout=1&kh=1]*elements",
        "[cin=1&cout=1&kh>1]*elements",
        "[cout>1]*groups",
    ),
    "pool": (
        "elements",
        "is(AveragePool)*elements",
        "is(GlobalAveragePool)*elements",
        "input_bytes",
        "pixels",
        "groups",
    ),
    "reduce": ("elements", "is(ReduceMean)*elements", "input_bytes", "output_bytes"),
    "elementwise": (
        "elements",
        "input_bytes",
        "output_bytes",
        "[groups>1]*groups",
        "[groups>1]*elements",
        *(
            f"is({op})*elements"
            for op in ("Mul", "Div", "Clip", "HardSwish", "HardSigmoid", "LeakyRelu", "Where", "Cast")
        ),
    ),
    "activation": (
        "elements",
        "has(Mul)*elements",
        *(f"is({op})*elements" for op in ("Sigmoid", "Tanh", "Exp", "Erf", "Pow", "Gelu")),
    ),
    "copy": (
        "input_bytes",
        "output_bytes",
        "is(Pad)*cin*oh",
        *(f"is({op})*elements" for op in ("Pad", "Split", "Slice", "Gather")),
    ),
    "resize": ("elements", "[taps>1]*elements", "pixels", "[taps>1]*pixels"),
    "norm": ("elements", *(f"is({op})*elements" for op in ("LayerNormalization", "BatchNormalization")), "batch*cin"),
    "softmax": ("elements", "batch*cin", "[oh>1]*elements"),
}


def terms(kind: str, dtype: str) -> tuple[str, ...]:
    """The candidates for a kind of kernel in a number format."""
    known = (_INTEGER if dtype == "int8" else _FLOAT).get(kind) or _ANY.get(kind)
    if known is None:
        known = ("elements", "input_bytes", "output_bytes") if kind in ELEMENT_KINDS else ("macs", "weight_bytes")
    weights = _WEIGHTS if kind in MAC_KINDS else ()
    return tuple(dict.fromkeys((*_ALWAYS, *known, *weights)))

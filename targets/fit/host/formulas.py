"""What the time of a kernel may depend on: terms by kind. The fit keeps those that matter, coefficients above 0."""

from __future__ import annotations

from collections.abc import Mapping

from lpcc.cost.kinds import ELEMENT_KINDS, MAC_KINDS

_ALWAYS = ("one", "bytes", "[bytes>1000000]*bytes", "[bytes>4000000]*bytes")
_WEIGHTS = ("weight_bytes", "[weight_bytes>200000]*weight_bytes", "[weight_bytes>1000000]*weight_bytes")

_FLOAT: Mapping[str, tuple[str, ...]] = {
    # Blocks of 16 channels, up to 4 of them and 6 pixels at once, pixels at the borders one by one; another loop where
    # there are few input channels; and a plain matrix product where channels cannot be blocked. A Relu costs nothing,
    # other activations go over the result once more.
    "conv": (
        "[blocked=1]*ceil(cout/16)*depth*rows",
        "[blocked=1]*ceil(cout/64)*depth*oh*ceil(ow/6)",
        "[blocked=1]*ceil(cout/64)*depth*oh*kw",
        "[blocked=1&sw>1]*ceil(cout/64)*depth*rows",
        "[blocked=1&cin<16]*ceil(cout/16)*depth*rows",
        "[blocked=1&cin<16]*ceil(cout/64)*depth*rows",
        "[blocked=1]*ceil(cout/64)*oh*kh",
        "[blocked=1]*has(Clip)*ceil(cout/16)*rows",
        "has(Sigmoid)*ceil(cout/16)*rows",
        "has(HardSwish)*ceil(cout/16)*rows",
        "[depth>3000]*oh*weight_bytes",
        "oh*weight_bytes",
        "[blocked=0]*macs",
        "[blocked=0]*rows*depth",
    ),
    "pointwise": (
        "[blocked=1]*ceil(cout/16)*depth*rows",
        "[blocked=1]*ceil(cout/64)*depth*rows",
        "[blocked=1]*ceil(cout/64)*depth*ceil(rows/6)",
        "[blocked=1&cin<16]*ceil(cout/16)*depth*rows",
        "[blocked=1&cin<16]*ceil(cout/64)*rows",
        "[blocked=1]*ceil(cout/64)*rows",
        "[blocked=1]*ceil(cout/64)*ceil(cin/128)*rows",
        "[sw>1]*ceil(cout/64)*depth*rows",
        "[blocked=1]*has(Clip)*ceil(cout/16)*rows",
        "has(Sigmoid)*ceil(cout/16)*rows",
        "has(HardSwish)*ceil(cout/16)*rows",
        "[blocked=0]*macs",
        "[blocked=0]*rows*depth",
        "input_bytes",
        "output_bytes",
    ),
    "depthwise": (
        "[blocked=1]*ceil(groups/16)*taps*rows",
        "[blocked=1]*ceil(groups/16)*taps*oh*ceil(ow/6)",
        "[blocked=1]*ceil(groups/16)*taps*oh*kw",
        "[blocked=1]*ceil(groups/16)*kh*oh",
        "[blocked=1]*ceil(groups/16)*rows",
        "[blocked=1&sw>1]*ceil(groups/16)*taps*rows",
        "[blocked=1&dw>1]*ceil(groups/16)*taps*rows",
        "[blocked=1]*has(Clip)*ceil(groups/16)*rows",
        "[blocked=1]*has(HardSwish)*ceil(groups/16)*rows",
        "[blocked=1]*has(Sigmoid)*ceil(groups/16)*rows",
        "[blocked=0]*macs",
        "[blocked=0&sw>1]*macs",
        "[blocked=0&taps>9]*macs",
        "[blocked=0]*groups*oh",
        "[blocked=0]*groups",
    ),
    "grouped": (
        "[blocked=1]*macs",
        "[blocked=0]*macs",
        "[blocked=0]*groups*ceil(cout/16)*depth*rows",
        "[blocked=0]*groups*depth*rows",
        "groups",
    ),
    "gemm": ("macs", "ceil(cout/16)*depth*rows", "[rows=1]*macs"),
    "matmul": ("macs", "batch*oh*ceil(cout/16)*depth", "batch", "batch*depth*cout"),
    "rnn": ("macs", "batch*oh*weight_bytes", "rows*cout", "rows"),
}

_INTEGER: Mapping[str, tuple[str, ...]] = {
    # Products of 4 bytes, 16 channels at once; windows are gathered first, sums turned into bytes last.
    "conv": (
        "ceil(cout/16)*ceil(depth/4)*rows",
        "ceil(cout/64)*ceil(depth/4)*rows",
        "ceil(cout/32)*ceil(depth/4)*ceil(rows/6)",
        "rows*depth",
        "rows*taps",
        "rows*cout",
        "rows",
        "![cin%4=0]*rows",
        "![cin%4=0]*rows*depth",
        "![cin%16=0]*rows*taps",
        "![cout%16=0]*rows",
        "[sw>1]*rows*taps",
        "depth*cout",
    ),
    "pointwise": (
        "ceil(cout/16)*ceil(depth/4)*rows",
        "ceil(cout/64)*ceil(depth/4)*rows",
        "ceil(cout/32)*ceil(depth/4)*ceil(rows/6)",
        "rows*depth",
        "rows*cout",
        "rows",
        "![cin%4=0]*rows*depth",
        "![cout%16=0]*rows",
        "[sw>1]*rows*depth",
    ),
    "depthwise": (
        "[groups%16=0]*groups*taps*rows",
        "[groups%16=0&taps=9]*groups*rows",
        "[groups%16=0&taps=25]*groups*rows",
        "![groups%16=0]*groups*taps*rows",
        "![groups%16=0]*mod(groups,8)*taps*rows",
        "rows*taps",
        "rows",
        "elements",
    ),
    "grouped": ("macs", "groups*rows*depth", "groups*rows*cout", "groups*rows", "groups"),
    "gemm": ("macs", "ceil(cout/16)*ceil(depth/4)*rows", "elements"),
    "matmul": ("macs", "batch*oh*ceil(cout/16)*depth", "batch", "batch*depth*cout", "elements"),
}

_ANY: Mapping[str, tuple[str, ...]] = {
    # Other kernels: what they read and write, and what sets single operators apart.
    "transpose": (
        "runs(ReorderInput)*ceil(cin/16)*pixels",
        "runs(ReorderOutput)*ceil(cin/16)*pixels",
        "runs(Transpose)*[cout=1&kh=1]*elements",
        "runs(Transpose)*[cout=1&kh>1]*elements",
        "[cout>1]*groups",
    ),
    "pool": (
        "elements",
        "is(AveragePool)*elements",
        "is(GlobalAveragePool)*elements",
        "[blocked=1]*elements",
        "[blocked=0]*elements",
        "[blocked=0]*is(MaxPool)*elements",
        "[blocked=0&sw>1]*is(MaxPool)*elements",
        "[blocked=0]*is(GlobalAveragePool)*elements",
        "input_bytes",
        "pixels",
        "groups",
    ),
    "reduce": ("elements", "is(ReduceMean)*elements", "groups", "[cout>1]*elements"),
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
        "groups",
        "is(Gather)*groups",
        *(f"is({op})*elements" for op in ("Pad", "Split", "Slice", "Gather")),
    ),
    "resize": ("elements", "[taps>1]*elements", "pixels", "[taps>1]*pixels", "[blocked=1]*elements"),
    "concat": ("elements", "inputs", "[blocked=1]*elements", "[blocked=1]*inputs*pixels", "[blocked=0]*elements"),
    "norm": ("elements", *(f"is({op})*elements" for op in ("LayerNormalization", "BatchNormalization")), "batch*cin"),
    "softmax": ("elements", "groups", "[cout>1]*elements"),
}


def terms(kind: str, dtype: str) -> tuple[str, ...]:
    """The candidates for a kind of kernel in a number format."""
    known = (_INTEGER if dtype == "int8" else _FLOAT).get(kind) or _ANY.get(kind)
    if known is None:
        known = ("elements", "input_bytes", "output_bytes") if kind in ELEMENT_KINDS else ("macs", "weight_bytes")
    weights = _WEIGHTS if kind in MAC_KINDS else ()
    return tuple(dict.fromkeys((*_ALWAYS, *known, *weights)))

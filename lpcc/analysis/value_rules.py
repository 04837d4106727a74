"""How operators compute integer tensors that are made from sizes, by operator. See `lpcc.analysis.shape_values`.

Values are arrays of objects: ints, sizes and None. A rule gives None where it knows nothing of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from lpcc import edit
from lpcc.analysis import sizes
from lpcc.analysis.shape_rules import absent, ints
from lpcc.analysis.sizes import Size

if TYPE_CHECKING:
    from lpcc.analysis.shape_values import ShapeValues

Rule = Callable[[gs.Node, "ShapeValues", int], "np.ndarray | None"]
_LARGEST = 1024  # elements


def _array(values: Sequence[Any], shape: Sequence[int] | None = None) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape if shape is not None else (len(values),))


def _shape(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    dims = found.dims(edit.inp(node, 0))
    if dims is None:
        return None
    return _array(dims[slice(edit.attr(node, "start", 0), edit.attr(node, "end", None))])


def _size(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    dims = found.dims(edit.inp(node, 0))
    return None if dims is None else _array([sizes.product(dims)], ())


def _first(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    return found.value(edit.inp(node, 0))


def _cast(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    value = found.value(edit.inp(node, 0))
    if value is None:
        return None
    to = edit.attr(node, "to")
    if to == TensorProto.BOOL:
        return _array([int(v != 0) if isinstance(v, int) else None for v in value.reshape(-1)], value.shape)
    if to not in (TensorProto.INT64, TensorProto.INT32):
        return None
    limit = 2 ** (63 if to == TensorProto.INT64 else 31)
    fits = [v if not isinstance(v, int) or -limit <= v < limit else None for v in value.reshape(-1)]
    return _array([int(v) if isinstance(v, bool) else v for v in fits], value.shape)


def _gather(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    value, indices = found.value(edit.inp(node, 0)), found.numbers(edit.inp(node, 1))
    if value is None or indices is None or value.ndim == 0:
        return None
    axis = edit.attr(node, "axis", 0)
    if indices.size and not (-value.shape[axis] <= indices.min() and indices.max() < value.shape[axis]):
        return None
    return np.asarray(np.take(value, indices, axis=axis), dtype=object)


def _slice(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    value = found.value(edit.inp(node, 0))
    starts, ends = ints(node, found, "starts", 1), ints(node, found, "ends", 2)
    axes, steps = ints(node, found, "axes", 3), ints(node, found, "steps", 4)
    if value is None or starts is None or ends is None:
        return None
    if axes is None:
        if not absent(node, "axes", 3):
            return None
        axes = list(range(len(starts)))
    if steps is None:
        if not absent(node, "steps", 4):
            return None
        steps = [1] * len(starts)
    where: list[slice] = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = value.shape[axis]
        if step < 0 and start < -length:
            start = 0  # where ONNX moves it to; Python takes nothing
        below = step < 0 and end < -length  # beyond the first element: Python says None
        where[axis] = slice(start, None if below else end, step)
    return value[tuple(where)]


def _concat(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    values = []
    for tensor in node.inputs:
        value = found.value(tensor)
        if value is None:
            static = found.static(tensor)
            if static is None or int(np.prod(static)) > _LARGEST:
                return None
            value = np.full(static, None, dtype=object)
        values.append(value)
    return np.concatenate(values, axis=edit.attr(node, "axis", 0))


def _reshaped(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    """Squeeze, Unsqueeze, Reshape and Flatten: the same elements in another shape."""
    value, shape = found.value(edit.inp(node, 0)), found.static(node.outputs[0])
    return None if value is None or shape is None else value.reshape(shape)


def _elementwise(compute: Callable[..., int | Size | None]) -> Rule:
    def rule(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
        values = [found.value(tensor) for tensor in node.inputs]
        if any(value is None for value in values):
            return None
        aligned = np.broadcast_arrays(*[value for value in values if value is not None])
        if aligned[0].size > _LARGEST:
            return None
        elements = [compute(*row) for row in zip(*[a.reshape(-1) for a in aligned], strict=True)]
        wide = [None if isinstance(e, int) and not -(2**63) <= e < 2**63 else e for e in elements]
        return _array(wide, aligned[0].shape)

    return rule


def _exact(node: gs.Node) -> bool:
    """Whether the result cannot wrap: sizes are int64 in ONNX."""
    return bool(node.outputs[0].dtype == np.int64)


def _wide(rule: Rule) -> Rule:
    """The rule for results in int64; narrower ones might wrap."""
    return lambda node, found, opset: rule(node, found, opset) if _exact(node) else None


def _subtract(a: int | Size | None, b: int | Size | None) -> int | Size | None:
    return sizes.add(a, sizes.negate(b))


def _equal(a: int | Size | None, b: int | Size | None) -> int | None:
    if a is None or b is None:
        return None
    if a == b:
        return 1
    difference = _subtract(a, b)
    if isinstance(difference, int):
        return 0
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Size) and one.is_nonnegative and isinstance(other, int) and other < 0:
            return 0
    return None


def _where(condition: int | Size | None, a: int | Size | None, b: int | Size | None) -> int | Size | None:
    if not isinstance(condition, int):
        return a if a is not None and a == b else None
    return a if condition else b


def _extreme(choose: Callable[[list[int]], int]) -> Callable[..., int | Size | None]:
    def compute(*row: int | Size | None) -> int | Size | None:
        numbers = [value for value in row if isinstance(value, int)]
        if len(numbers) == len(row):
            return choose(numbers)
        return row[0] if all(value == row[0] for value in row) else None

    return compute


def _modulo(a: int | Size | None, b: int | Size | None) -> int | None:
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a % b
    return None


def _reduce_prod(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    value, shape = found.value(edit.inp(node, 0)), found.static(node.outputs[0])
    if value is None or shape is None or int(np.prod(shape)) != 1:
        return None
    return _array([sizes.product(value.reshape(-1))], shape)


def _constant_of_shape(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    shape = found.numbers(edit.inp(node, 0))
    fill = edit.attr(node, "value")
    if shape is None or (shape < 0).any() or float(np.prod(shape, dtype=np.float64)) > _LARGEST:
        return None
    if not isinstance(fill, gs.Constant) or np.dtype(fill.dtype) not in (np.int64, np.int32, np.bool_):
        return None
    return np.full(tuple(shape), int(fill.values.reshape(-1)[0]), dtype=object)


def _range(node: gs.Node, found: ShapeValues, _: int) -> np.ndarray | None:
    bounds = [found.numbers(edit.inp(node, index)) for index in range(3)]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return None
    start, limit, step = (int(bound.reshape(-1)[0]) for bound in bounds if bound is not None)
    if step == 0 or len(range(start, limit, step)) > _LARGEST:
        return None
    return _array(list(range(start, limit, step)))


def _constant(node: gs.Node, _: ShapeValues, __: int) -> np.ndarray | None:
    value = node.attrs.get("value")
    if not isinstance(value, gs.Constant) or value.dtype not in (np.int64, np.int32, np.bool_):
        return None
    return np.asarray(value.values).astype(object) if int(np.prod(value.shape)) <= _LARGEST else None


def split(node: gs.Node, found: ShapeValues, _: int) -> list[np.ndarray | None]:
    """Values of all outputs of a Split of a vector."""
    value, parts = found.value(edit.inp(node, 0)), ints(node, found, "split", 1)
    if value is None or value.ndim != 1:
        return []
    if parts is None:
        count = len(node.outputs)
        if not absent(node, "split", 1) or len(value) % count:
            return []
        parts = [len(value) // count] * count
    return [np.asarray(part, dtype=object) for part in np.split(value, np.cumsum(parts)[:-1])]


RULES: Final[dict[str, Rule]] = {
    "Add": _wide(_elementwise(sizes.add)),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _wide(_elementwise(sizes.divide)),
    "Equal": _elementwise(_equal),
    "Flatten": _reshaped,
    "Gather": _gather,
    "Identity": _first,
    "Max": _elementwise(_extreme(max)),
    "Min": _elementwise(_extreme(min)),
    "Mod": _elementwise(_modulo),
    "Mul": _wide(_elementwise(sizes.multiply)),
    "Neg": _wide(_elementwise(sizes.negate)),
    "Range": _range,
    "ReduceProd": _wide(_reduce_prod),
    "Reshape": _reshaped,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Sub": _wide(_elementwise(_subtract)),
    "Unsqueeze": _reshaped,
    "Where": _elementwise(_where),
}
"""What each operator says of the values of its first output."""

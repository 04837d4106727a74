"""Arrays as tensors and back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")

from lpcc.train.tensors import array_of, is_narrow, is_real, tensor_of  # noqa: E402

NAMES = ["float64", "float32", "float16", "bool", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"]
SMALL = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4", "int2"]


@pytest.mark.parametrize("name", NAMES + SMALL)
def test_there_and_back(name):
    dtype = np.dtype(getattr(ml_dtypes, name) if name in SMALL else name)
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    tensor = tensor_of(values)
    assert tensor.shape == (2, 2)
    again = array_of(tensor, dtype)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.astype(np.float32), values.astype(np.float32))


def test_small_integers_are_float32_and_others_keep_their_type():
    assert tensor_of(np.array([-3], np.int8)).dtype == torch.float32
    assert tensor_of(np.array([7]).astype(ml_dtypes.uint4)).dtype == torch.float32
    assert tensor_of(np.array([2**40])).dtype == torch.int64
    assert tensor_of(np.array([2**31], np.uint32)).tolist() == [2**31]
    assert tensor_of(np.array([1.5]).astype(ml_dtypes.bfloat16)).dtype == torch.bfloat16


def test_nothing_is_shared():
    values = np.ones(3, np.float32)
    tensor = tensor_of(values)
    values[0] = 2
    assert tensor.tolist() == [1, 1, 1]
    array = array_of(tensor, np.float32)
    tensor[1] = 5
    assert array.tolist() == [1, 1, 1]


def test_arrays_that_may_not_be_written_or_are_not_in_order():
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    values.flags.writeable = False
    assert tensor_of(values).tolist() == values.tolist()
    assert tensor_of(np.float32(2)).shape == ()


def test_integers_are_rounded_not_cut():
    assert array_of(torch.tensor([2.9999, -1.0001]), np.int8).tolist() == [3, -1]


def test_parameters():
    parameter = torch.nn.Parameter(torch.ones(2))
    assert array_of(parameter, np.float16).tolist() == [1, 1]


def test_text_is_no_number():
    with pytest.raises(TypeError):
        tensor_of(np.array(["a"], dtype=object))


def test_kinds():
    assert is_real(np.float16)
    assert is_real(ml_dtypes.bfloat16)
    assert not is_real(np.int32)
    assert not is_real(ml_dtypes.float8_e4m3fn)
    assert is_narrow(ml_dtypes.int4)
    assert is_narrow(np.uint16)
    assert not is_narrow(np.int32)
    assert not is_narrow(np.bool_)

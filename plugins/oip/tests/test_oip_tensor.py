"""Tensors of the Open Inference Protocol, against Triton's own library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from mataserver import BadRequest
from mataserver_oip import tensor

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@FAST
@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_are_written_and_read_as_triton_does(parts):
    """Elements of BYTES, empty ones among them, in the form of Triton's library."""
    written = tensor.to_binary(tensor.Tensor("x", "BYTES", (len(parts),), parts))
    assert list(deserialize_bytes_tensor(written)) == parts
    if parts:
        given_by_triton = serialize_byte_tensor(np.array(parts, dtype=object)).item()
        assert written == given_by_triton
    read = tensor.from_binary("x", "BYTES", [len(parts)], memoryview(written), 6)
    assert read.data == parts


@pytest.mark.parametrize(
    ("datatype", "kind", "values"),
    [
        ("UINT8", np.uint8, [0, 255, 7, 8, 9, 10]),
        ("INT32", np.int32, [-(2**31), 2**31 - 1, 0, 1, 2, 3]),
        ("INT64", np.int64, [-(2**63), 2**63 - 1, 0, 1, 2, 3]),
        ("FP32", np.float32, [0.5, -1.25, 1e30, 0, 1, 2]),
    ],
)
def test_numbers(datatype, kind, values):
    """Numbers are numpy's bytes, in whatever form they came: binary, a list, lists of lists."""
    expected = np.array(values, kind).reshape(2, 3)
    binary = tensor.from_binary("x", datatype, [2, 3], memoryview(expected.tobytes()), 0)
    flat = tensor.from_values("x", datatype, [2, 3], values)
    nested = tensor.from_values("x", datatype, [2, 3], expected.tolist())
    assert bytes(tensor.to_binary(binary)) == flat.data == nested.data == expected.tobytes()
    for made in (binary, flat):
        assert tensor.to_values(made) == expected.ravel().tolist()


def test_truths_and_text_as_values():
    """Booleans are JSON's, BYTES are text."""
    truths = tensor.Tensor("x", "BOOL", (3,), b"\x00\x01\x01")
    assert tensor.to_values(truths) == [False, True, True]
    assert tensor.to_values(tensor.Tensor("x", "BYTES", (2,), [b"a", "ü".encode()])) == ["a", "ü"]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("UINT8", [2, 3], b"12345", "takes 6 bytes, got 5"),
        ("UINT8", [2, 3], b"1234567", "takes 6 bytes, got 7"),
        ("FP32", [1], b"123", "takes 4 bytes, got 3"),
        ("FP16", [1], b"12", "datatype 'FP16' is not taken"),
        ("BYTES", [1], b"\x05\x00\x00\x00abcd", "end within an element"),
        ("BYTES", [1], b"\x05\x00", "end within an element"),
        ("BYTES", [2], b"\x01\x00\x00\x00a", "end within an element"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "end within an element"),
        ("BYTES", [1], b"\x01\x00\x00\x00ab", "1 bytes more than the shape has"),
        ("BYTES", [0], b"a", "1 bytes more than the shape has"),
        ("BYTES", [1_000_000_000, 8], b"", "at most 4 elements"),
        ("UINT8", [-1, -6], b"123456", "at most 8 numbers from 0"),
        ("UINT8", [1] * 9, b"1", "at most 8 numbers from 0"),
    ],
)
def test_binary_data_that_do_not_fit(datatype, shape, data, said):
    """Data that do not fill the shape exactly are refused, before memory is taken for them."""
    with pytest.raises(BadRequest, match=said):
        tensor.from_binary("x", datatype, shape, memoryview(data), 4)


@pytest.mark.parametrize(
    ("datatype", "shape", "values", "said"),
    [
        ("UINT8", [2], [1], "has 2 elements, got 1"),
        ("UINT8", [1], [256], "not UINT8"),
        ("UINT8", [1], [-1], "not UINT8"),
        ("UINT8", [1], [1.5], "not UINT8"),
        ("UINT8", [1], ["1"], "not UINT8"),
        ("UINT8", [1], [None], "not UINT8"),
        ("UINT8", [2], [0, True], "not UINT8"),
        ("INT64", [1], [False], "not INT64"),
        ("FP32", [1, 2], [[0.5, True]], "not FP32"),
        ("INT8", [1], [1], "'INT8' is not taken"),
        ("BYTES", [1], [1], "not BYTES"),
        ("UINT8", [2, 2], [[1, 2], 3], "nested unevenly"),
        ("UINT8", [2, 2], [[1, 2, 3], [4]], "nested unevenly"),
        ("UINT8", [2, 3], [[1, 2], [3, 4], [5, 6]], r"nested as \[3, 2\], not \[2, 3\]"),
        ("UINT8", [1, 2, 3, 1], [[[1, 2], [3, 4], [5, 6]]], r"nested as \[1, 3, 2\]"),
        ("UINT8", [2, 2], [[1, 2], [3]], "nested unevenly"),
        ("UINT8", [2_000, 2_001], [], "over 4000000 numbers: send them as bytes"),
    ],
)
def test_values_that_do_not_fit(datatype, shape, values, said):
    """Values of another type or number are refused."""
    with pytest.raises(BadRequest, match=said):
        tensor.from_values("x", datatype, shape, values)


def test_a_tensor_without_elements_may_be_nested():
    """``[[]]`` has the shape ``[1, 0]`` and fills ``[0, 3]`` as well."""
    found = tensor.from_values("x", "UINT8", [0, 3], [[]])
    assert tuple(found.shape) == (0, 3)


def test_what_just_fits():
    """Eight dimensions, as many elements of BYTES as are taken, and four million numbers."""
    assert tensor.from_binary("x", "UINT8", [1] * 8, memoryview(b"1"), 0).shape == (1,) * 8
    written = memoryview(tensor.to_binary(tensor.Tensor("x", "BYTES", (2,), [b"a", b""])))
    assert tensor.from_binary("x", "BYTES", [2], written, 2).data == [b"a", b""]
    with pytest.raises(BadRequest, match="at most 1 elements, the shape has 2"):
        tensor.from_binary("x", "BYTES", [2], written, 1)
    many = tensor.Tensor("x", "UINT8", (2_000, 2_000), bytes(4_000_000))
    assert len(tensor.to_values(many)) == tensor.MAX_VALUES
    more = tensor.Tensor("x", "UINT8", (4_000_001,), bytes(4_000_001))
    with pytest.raises(BadRequest, match="ask for binary data"):
        tensor.to_values(more)

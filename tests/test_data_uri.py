"""Base64 as people write it."""

from __future__ import annotations

import base64
import contextlib
import tracemalloc
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mataserver.errors import BadRequest
from mataserver.http import data_uri

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)
WAYS = {
    "exact": lambda data: base64.b64encode(data).decode(),
    "in lines": lambda data: base64.encodebytes(data).decode(),
    "in lines of Windows": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "URL-safe, unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "percent-encoded": lambda data: quote(base64.b64encode(data).decode(), safe=""),
    "indented": lambda data: "  " + base64.b64encode(data).decode() + "\t\n",
}


@FAST
@given(data=st.binary(min_size=1, max_size=400), way=st.sampled_from(sorted(WAYS)))
def test_every_way_gives_the_same_bytes(data, way):
    """Each way to write some bytes is read, with a data URI's head and without."""
    text = WAYS[way](data)
    assert data_uri.decode(text) == data
    assert data_uri.decode("data:image/jpeg;base64," + text) == data


@pytest.mark.parametrize("text", ["%41" * 1_000_000, "%2B" * 1_000_000, "%2B%2f" * 500_000 + "%"])
def test_percent_encoding_makes_no_object_of_each_piece(text):
    """A body of escapes alone takes some times its own size, and not eighty times as much."""
    tracemalloc.start()
    try:
        with contextlib.suppress(BadRequest):
            data_uri.decode(text)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(text)


@pytest.mark.parametrize("text", ["AA%41A", "AAA%", "AAA%2", "AAA%zz", "AA%25"])
def test_escapes_of_what_base64_does_not_escape(text):
    """What no encoder writes is refused."""
    with pytest.raises(BadRequest, match="not valid base64"):
        data_uri.decode(text)


@pytest.mark.parametrize("text", ["data:image/svg+xml,%3Csvg%3E", "data:,A", "data:image/png,AAAA"])
def test_other_data_uris_say_what_is_missing(text):
    """A data URI whose data are no base64 is refused with the form that is taken."""
    with pytest.raises(BadRequest, match=r"without base64: write data:image/...;base64"):
        data_uri.decode(text)


@pytest.mark.parametrize("text", ["", " ", "\n", "data:image/png;base64,", "data:;base64, \r\n"])
def test_nothing(text):
    """No data at all is told as that, under the name that the request has for it."""
    with pytest.raises(BadRequest, match=r"^mask is empty$"):
        data_uri.decode(text, "mask")

"""The cache: bounded by bytes, least recently used goes first."""

from __future__ import annotations

import torch

from mataserver_sam.byte_cache import ByteCache, tensor_bytes


def test_it_stays_within_its_limit():
    """However much is put in, the bytes that are held never exceed the limit."""
    cache = ByteCache(100, len)
    for number in range(50):
        cache.put(number, b"x" * (number % 40))
        assert cache.held_bytes == sum(number % 40 for number in range(50) if number in held(cache))
        assert cache.held_bytes <= 100
    assert len(cache) == len(held(cache))


def held(cache):
    """Return the keys of a cache."""
    return set(cache._entries)


def test_what_was_used_last_stays():
    """A value that was asked for outlives one that was put in later."""
    cache = ByteCache(3, len)
    for key in "abc":
        cache.put(key, b"1")
    assert cache.get("a") == b"1"
    cache.put("d", b"1")
    assert held(cache) == {"a", "c", "d"}
    assert cache.get("b") is None
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_same_key_is_replaced():
    """A value that is put again counts once."""
    cache = ByteCache(10, len)
    cache.put("a", b"12345")
    cache.put("a", b"123")
    assert (cache.held_bytes, cache.get("a")) == (3, b"123")


def test_what_is_too_large_is_not_kept():
    """A value larger than the limit throws nothing else out; a limit of 0 keeps nothing."""
    cache = ByteCache(4, len)
    cache.put("a", b"1234")
    cache.put("b", b"12345")
    assert held(cache) == {"a"}
    nothing = ByteCache(0, len)
    nothing.put("a", b"1")
    assert len(nothing) == 0


def test_dropping():
    """Values can be dropped by a test of theirs, or all together."""
    cache = ByteCache(10, len)
    cache.put("a", b"1")
    cache.put("b", b"12")
    cache.drop_if(lambda value: len(value) == 1)
    assert (held(cache), cache.held_bytes) == ({"b"}, 2)
    cache.clear()
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_bytes_of_tensors():
    """Tensors count by their type, wherever they are nested; anything else is free."""
    half = torch.zeros(3, dtype=torch.bfloat16)
    assert tensor_bytes([half, (half, {"a": torch.zeros(2)}), None, "text"]) == 6 + 6 + 8

"""The memory that the server shares with a worker: what is placed comes out, whatever the order."""

from __future__ import annotations

import os
import random

import pytest

from mataserver.engines import arena


@pytest.fixture
def ends():
    """Both ends of one shared memory."""
    descriptor = arena.create()
    assert descriptor is not None
    yield arena.ServerArena(descriptor), arena.WorkerArena(descriptor)
    os.close(descriptor)


def test_requests_are_read_where_they_lie(ends):
    """The worker sees the very bytes of each request until it is answered."""
    server, worker = ends
    blocks = [server.write(bytes([i]) * (5000 + i)) for i in range(5)]
    assert [bytes(worker.view(b.begin, 5000)) for b in blocks] == [
        bytes([i]) * 5000 for i in range(5)
    ]


def test_a_full_memory_places_nothing_and_room_comes_back_in_any_order(ends):
    """What does not fit is refused; once everything was freed, in any order, all fits again."""
    server, _ = ends
    size = arena.REQUEST_BYTES // 4
    for _ in range(3):
        blocks = [server.write(bytes(size)) for _ in range(4)]
        assert None not in blocks
        assert server.write(b"x" * 5000) is None
        random.Random(1).shuffle(blocks)
        for block in blocks:
            server.free(block)
    assert server.write(bytes(arena.REQUEST_BYTES + 1)) is None


def test_requests_never_overlap(ends):
    """Over thousands of requests of changing size and life no live one is written over."""
    server, worker = ends
    chance = random.Random(7)
    live = []
    for number in range(3000):
        data = number.to_bytes(4, "big") * chance.randrange(1_000, 200_000)
        block = server.write(data)
        if block is not None:
            live.append((block, data))
        while live and (block is None or chance.random() < 0.4):
            old, expected = live.pop(chance.randrange(len(live)))
            assert worker.view(old.begin, len(expected)) == expected
            server.free(old)
            block = old


def test_answers_come_out_in_order_round_and_round(ends):
    """Answers are copied out and their room used again, many times round."""
    server, worker = ends
    for number in range(200):
        data = number.to_bytes(2, "big") * 100_000
        place = worker.write([data[:7], data[7:]])
        assert place is not None
        assert server.view(place, len(data)) == data
        server.release_up_to(worker.written)


def test_an_answer_waits_for_room(ends):
    """While nothing was read, what does not fit is refused and nothing is written over."""
    server, worker = ends
    first = b"a" * (arena.ANSWER_BYTES // 2)
    place = worker.write([first])
    assert worker.write([b"b" * (arena.ANSWER_BYTES // 2)]) is not None
    assert worker.write([b"c" * 5000]) is None
    assert server.view(place, len(first)) == first
    server.release_up_to(worker.written)
    assert worker.write([b"c" * 5000]) is not None


def test_a_worker_cannot_shrink_it():
    """A worker that cut the memory short would kill the server with it: the kernel refuses."""
    descriptor = arena.create()
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)

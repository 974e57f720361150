"""What the client's tests share: connected clients, numbered frames, and what became of them."""

from __future__ import annotations

import contextlib

from api_stand_in import KEY, picture

from mataserver_client import AsyncClient, Client, Reconnect

SOON = Reconnect(tries=3, first_delay=0.0)


def pictures(count):
    """Frames that differ by their width: frame 0 is one pixel wide."""
    return [picture(index + 1) for index in range(count)]


def widths(items):
    """(number, width seen by the server) of every result."""
    return [(item.frame_id, round(item.detections[0].bbox[2])) for item in items]


def every(count):
    """What ``widths`` says when no frame is missing."""
    return [(index, index + 1) for index in range(count)]


@contextlib.asynccontextmanager
async def connected(stand_in, **options):
    """A client of a stand-in that serves on the test's own loop."""
    async with stand_in.serve(), AsyncClient(stand_in.url, KEY, **options) as client:
        yield client


@contextlib.contextmanager
def connected_plainly(stand_in, **options):
    """The same for the plain client; the stand-in serves from a thread."""
    with stand_in.serve_in_thread(), Client(stand_in.url, KEY, **options) as client:
        yield client


async def collect(stream, into=None):
    items = [] if into is None else into
    async for item in stream:
        items.append(item)
    return items


async def numbered(count):
    for frame in pictures(count):
        yield frame

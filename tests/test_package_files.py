"""Files of package data: compressed off the event loop and once, with types of their own."""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
import threading

import pytest
from aiohttp.test_utils import make_mocked_request

from api_answers import until
from mataserver.http.files import POLICY, PackageFiles

TEXT = b"let a = 1;\n" * 1_000


def files_of(made):
    """Return what answers with the files of ``made``."""
    return PackageFiles("mataserver.http", "static", POLICY, made)


async def get(files, name="a.js"):
    """Return the answer with a file to a client that takes it as it is."""
    return await files.respond(make_mocked_request("GET", f"/{name}"), name)


async def test_a_file_is_compressed_once_and_not_on_the_event_loop(monkeypatch):
    """Who leaves first does not have it made again, nor fails the others."""
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(data, **options):
        calls.append(len(data))
        assert threading.current_thread() is not threading.main_thread()
        begun.set()
        go_on.wait()
        return compress(data, **options)

    compress = gzip.compress
    monkeypatch.setattr(gzip, "compress", slow)
    files = files_of({"a.js": lambda: TEXT})
    asking = [asyncio.create_task(get(files)) for _ in range(4)]
    try:
        await until(lambda: begun.is_set() or asking[0].done())
        asking[0].cancel()
        await asyncio.wait(asking[:1])
    finally:
        go_on.set()
    assert [answer.body for answer in await asyncio.gather(*asking[1:])] == [TEXT] * 3
    assert (await get(files)).body == TEXT
    assert calls == [len(TEXT)]


async def test_a_file_that_could_not_be_read_is_read_again():
    """A failure is not kept."""
    failures = [OSError("gone")]

    def read():
        if failures:
            raise failures.pop()
        return TEXT

    files = files_of({"a.js": read})
    with pytest.raises(OSError, match="gone"):
        await get(files)
    assert (await get(files)).body == TEXT


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.svg", "image/svg+xml"),
        ("a.webp", "image/webp"),
        ("a.nothing", "application/octet-stream"),
    ],
)
async def test_types_are_not_those_of_the_system(name, kind):
    """With ``nosniff`` a browser runs no script whose type a table of the system gets wrong."""
    suffix = name[name.index(".") :]
    try:
        mimetypes.add_type("text/x-wrong", suffix)
        answer = await get(files_of({name: lambda: TEXT}), name)
        assert answer.headers["Content-Type"] == kind
    finally:
        mimetypes.init()

"""Uploads to a plugin's service: many files, other origins, breaks, slow arrival."""

from __future__ import annotations

import asyncio
import gc
import io
import shutil
import weakref

import aiohttp

from api_answers import answer, connection, head_of, until
from lab_service import LAB, TOKEN, http_fixture, read, server_fixture  # noqa: F401 - fixtures
from mataserver.http import uploads
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture


async def test_many_files(http, data_dir):
    """Every file of a form is written, under a name of ours; the fields are told, bounds hold."""

    def form(*files, **fields):
        made = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
        for name, value in fields.items():
            made.add_field(name, value)
        for name in files:
            made.add_field("files[]", io.BytesIO(name.encode()), filename=name)
        return made

    async def ask(**request):
        shutil.rmtree(data_dir / "many", ignore_errors=True)
        return await read(http, "/lab/many", "POST", **request)

    status, body = await ask(data=form("1/a.bin", "../b", name="m"))
    assert status == 200
    assert body["files"] == [["files[]", "1/a.bin", 7, "1/a.bin"], ["files[]", "../b", 4, "../b"]]
    assert body["fields"] == {"name": "m"}
    assert sorted(path.name for path in (data_dir / "many").iterdir()) == ["0", "1"]
    assert (await ask(data=form("a", "b", "c", "d", "e")))[0] == 400
    assert (await ask(data=form(name="x" * 65_537)))[0] == 422
    assert (await ask(data=form(name="x" * 65_536)))[0] == 200
    assert (await ask(json={}))[0] == 415
    cut = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await ask(data=b"--x\r\nContent-Disp", headers=cut))[0] == 400


async def test_many_texts_beside_files(http, data_dir):
    """Texts are kept in memory and count for nobody: a form of many files has few of them too."""
    for count, expected in ((64, 200), (65, 422)):
        shutil.rmtree(data_dir / "many", ignore_errors=True)
        form = aiohttp.FormData({f"f{n}": "x" for n in range(count)}, default_to_multipart=True)
        for name in "abc":
            form.add_field("files[]", io.BytesIO(b"y"), filename=name)
        status, body = await read(http, "/lab/many?most=1000", "POST", data=form)
        assert status == expected, body
    assert "at most 64 fields" in body["wrong"]


async def test_uploads_of_other_origins(http, data_dir):
    """A page of another origin cannot have a browser upload anything: it is not asked first."""
    elsewhere = {"Origin": "https://elsewhere.example"}
    status, body = await read(http, "/lab/files", "POST", data=b"x", headers=elsewhere)
    assert status == 403, body
    assert not (data_dir / "upload").exists()


async def test_a_limit_is_the_files(http, data_dir):
    """A file of just the limit's size is saved, as the body or in a form, whose frame is beside."""

    async def send(size, **fields):
        form = aiohttp.FormData(fields, default_to_multipart=True)
        form.add_field("file", io.BytesIO(bytes(size)), filename="a.bin")
        return await read(http, "/lab/files", "POST", data=form)

    for size, status in ((3_000_000, 200), (3_000_001, 413)):
        assert (await read(http, "/lab/files", "POST", data=io.BytesIO(bytes(size))))[0] == status
        found, body = await send(size, note="x" * 60_000)
        assert found == status, body
        assert body.get("size", size) == body.get("written", size) == size
    assert body["wrong"] == "The body is over the limit of 3000000 bytes"
    assert (await send(9_000_000))[0] == 413
    assert not list(data_dir.glob(".*.part"))


async def test_uploads_that_fail_leave_nothing(http, server, data_dir):
    """A client that leaves, a form without the file, and a broken one leave no file behind."""
    async with connection(server) as (_, writer):
        head = head_of(server, "/lab/files", "Content-Length: 1000000")
        writer.write(head.replace(b"test-key", b"lab-token") + b"x" * 100_000)
        await writer.drain()
        await until(lambda: list(data_dir.glob(".*.part")))
    await until(lambda: not list(data_dir.glob(".*.part")))
    form = aiohttp.FormData({"note": "none"})
    form.add_field("other", b"x", filename="a")
    assert (await read(http, "/lab/files", "POST", data=form))[0] == 422
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await read(http, "/lab/files", "POST", data=b"--y", headers=broken))[0] == 400
    assert not (data_dir / "upload").exists()


async def test_an_upload_that_goes_on_arriving(plugin, data_dir):  # noqa: F811
    """With "idle" the time counts from the last byte, not from the first."""
    async with (
        serving(data_dir, entry_points=[plugin(LAB)], body_timeout=0.4) as served,
        aiohttp.ClientSession(served.url, headers=TOKEN) as http,
    ):

        async def slowly():
            for _ in range(6):
                await asyncio.sleep(0.15)
                yield b"x" * 1000

        async def stalling():
            yield b"x"
            await asyncio.sleep(5)
            yield b"x"

        assert (await read(http, "/lab/slow", "POST", data=slowly()))[1]["size"] == 6000
        assert (await read(http, "/lab/files", "POST", data=slowly()))[0] == 408
        assert (await read(http, "/lab/slow", "POST", data=stalling()))[0] == 408


async def test_a_request_is_answered_while_an_upload_runs(http, server):
    """An upload that takes its time holds up nobody."""
    async with connection(server) as (reader, writer):
        head = head_of(server, "/lab/files", "Content-Length: 20")
        writer.write(head.replace(b"test-key", b"lab-token") + b"x" * 10)
        await writer.drain()
        assert (await read(http, "/lab/me"))[0] == 200
        writer.write(b"x" * 10)
        await writer.drain()
        status, _, _ = await answer(reader)
        assert status == 200


async def test_an_upload_that_is_broken_off_leaves_nothing(server, data_dir, monkeypatch):
    """Its texts go with it, not only once Python collects cycles: large texts do not cause that."""
    kept = weakref.WeakSet()

    class Watched(uploads._Parts):
        def __init__(self, *args):
            super().__init__(*args)
            kept.add(self)

    monkeypatch.setattr(uploads, "_Parts", Watched)
    gc.collect()
    gc.disable()
    try:
        for path in ("/lab/files", "/lab/many"):
            head = head_of(
                server,
                path,
                "Content-Type: multipart/form-data; boundary=x",
                "Content-Length: 90000",
            )
            part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 60_000
            async with connection(server) as (_, writer):
                writer.write(head + part)
                await until(lambda: kept)
            await until(lambda: not kept)
    finally:
        gc.enable()

"""Files of which it is seen at once that no ``infer`` job reads them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib

import aiohttp
import pytest
from films import archive, picture
from serving_jobs import asking

from mataserver_jobs import item_sources

ASKED = {"model": "fake-detect"}
TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}


@pytest.fixture
async def ask(tmp_path):
    """A server whose jobs may read the folder ``roots``."""
    (tmp_path / "roots").mkdir()
    async with asking(tmp_path / "data", jobs={"roots": [str(tmp_path / "roots")]}) as asked:
        yield asked


async def uploaded(ask, data):
    """Return the id of a whole upload."""
    headers = {**TUS, "Upload-Length": str(len(data))}
    async with ask.session.post("/v1/uploads", headers=headers) as begun:
        path = begun.headers["Location"]
    if data:
        async with ask.session.patch(path, data=data, headers=PART) as whole:
            assert whole.status == 204
    return path.rpartition("/")[2]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (picture(), "a single picture"),
        (b"%PDF-1.7\n", "a PDF"),
        (gzip.compress(b"pictures", mtime=0), "an archive other than ZIP"),
    ],
)
async def test_a_file_that_no_job_reads(ask, tmp_path, data, told):
    """It is named, by each way on which it may be given, and no job is made."""
    file = tmp_path / "roots" / "file"
    file.write_bytes(data)
    named = {**ASKED, "path": str(file)}
    form = aiohttp.FormData({**ASKED, "file": io.BytesIO(data)})
    for path, given in (
        ("infer?model=fake-detect", {"data": data}),
        ("infer", {"data": form}),
        ("infer", {"json": {**ASKED, "upload": await uploaded(ask, data)}}),
        ("infer", {"json": named}),
        ("infer/check", {"json": named}),
    ):
        status, body = await ask("POST", f"/v1/jobs/{path}", **given)
        assert status == 400, body
        assert body["detail"].startswith(f"The file is {told}: ")
    assert (await ask("GET", "/v1/jobs"))[1]["total"] == 0


async def test_a_file_that_became_a_picture(tmp_path):
    """What a path leads to when the job runs is named by the job's error."""
    file = tmp_path / "a.mp4"
    file.write_bytes(b"x")
    asked = {**ASKED, "path": str(file)}
    async with asking(tmp_path / "data", jobs={"roots": [str(tmp_path)], "slots": 0}) as ask:
        _, job = await ask("POST", "/v1/jobs/infer", json=asked)
    file.write_bytes(picture())
    async with asking(tmp_path / "data", jobs={"roots": [str(tmp_path)]}) as ask:
        ended = await ask.ended(job["id"])
    assert ended["error"].startswith("The file is a single picture: ")


async def test_a_zip_behind_a_picture(ask, tmp_path):
    """It is a ZIP, whatever it begins with."""
    packed = archive(tmp_path / "v.zip", [("a.png", picture())]).read_bytes()
    status, job = await ask("POST", "/v1/jobs/infer?model=fake-detect", data=picture() + packed)
    assert status == 202, job
    assert (await ask.ended(job["id"]))["result"]["items"] == 1


def test_names_of_a_zip(tmp_path):
    """A name in UTF-8 that is not marked so, beside another one, or with backslashes is read."""
    own, beside = b"gr#U00fc.png", "grün.png".encode()
    extra = struct.pack("<HHBL", 0x7075, 5 + len(beside), 1, zlib.crc32(own)) + beside
    named = zipfile.ZipInfo(own.decode())
    named.extra = extra
    path = tmp_path / "v.zip"
    archive(path, [(named, picture()), (zipfile.ZipInfo("a/x__.png"), picture())])
    # As old programs for Windows, and as macOS: no flag says that it is UTF-8.
    path.write_bytes(path.read_bytes().replace(b"a/x__.png", b"a\\x\xc3\xb6.png"))
    found = [item.file for item in item_sources.open_source(path).items(0, 1)]
    assert found == ["a/xö.png", "grün.png"]

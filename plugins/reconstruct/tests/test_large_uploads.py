"""Uploads as large as they may be: the server's memory does not grow with them."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.parse
import zlib
from pathlib import Path

import pytest
from apart import Server

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

MEGABYTE = 1_000_000
PHOTO = 10 * MEGABYTE


def local(name, check):
    """Return what stands before an entry that is stored as it is."""
    sizes = b"".join(number.to_bytes(4, "little") for number in (check, PHOTO, PHOTO))
    head = b"PK\x03\x04\x14\x00" + bytes(8) + sizes + len(name).to_bytes(2, "little")
    return head + b"\x00\x00" + name


def listed(name, check, offset):
    """Return an entry of the directory."""
    sizes = b"".join(number.to_bytes(4, "little") for number in (check, PHOTO, PHOTO))
    head = b"PK\x01\x02\x14\x00\x14\x00" + bytes(8) + sizes + len(name).to_bytes(2, "little")
    return head + bytes(12) + offset.to_bytes(4, "little") + name


def archive(count):
    """Yield a ZIP of files of 10 MB, none of which is ever whole here."""
    part = os.urandom(MEGABYTE)
    check = zlib.crc32(part * (PHOTO // MEGABYTE))
    entries, offset = [], 0
    for at in range(count):
        name = b"%03d.jpg" % at
        head = local(name, check)
        entries.append(listed(name, check, offset))
        offset += len(head) + PHOTO
        yield head
        for _ in range(PHOTO // MEGABYTE):
            yield part
    directory = b"".join(entries)
    numbers = count.to_bytes(2, "little") * 2
    sizes = len(directory).to_bytes(4, "little") + offset.to_bytes(4, "little")
    yield directory + b"PK\x05\x06\x00\x00\x00\x00" + numbers + sizes + b"\x00\x00"


def peak(pid):
    """Return the most memory that a process had, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024


def send(server, parts, size=None):
    """Send an archive part by part; return status and answer."""
    address = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/zip"}
    if size is not None:
        headers["Content-Length"] = str(size)
    try:
        connection.request("POST", "/upload", body=parts, headers=headers, encode_chunked=not size)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_memory_is_flat(tmp_path):
    """An upload of 200 MB costs the server less than a tenth of that, whole or chunked."""
    server = Server(tmp_path)
    try:
        server.until("/ready", lambda answer: answer.status == 200)
        assert send(server, archive(1))[0] == 202  # what the first one loads stays
        before, count = peak(server.process.pid), int(os.environ.get("PHOTOGRAPHS", "20"))
        size = sum(map(len, archive(count)))
        for told in (size, None):
            status, answer = send(server, archive(count), told)
            assert status == 202, answer
        grown = peak(server.process.pid) - before
        assert grown < size / 10, f"{grown / MEGABYTE:.0f} MB for {size / MEGABYTE:.0f} MB"
    finally:
        server.kill()

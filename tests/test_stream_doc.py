"""docs/streaming.md against the server: its client runs, its tables tell what the code does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import msgspec

from conftest import picture
from mataserver import config, results
from mataserver.http import stream, stream_channel, stream_connection
from stream_peers import PNG, open_session

PAGE = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text()


def block(language):
    """Return the first code block of a language."""
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]


def rows(header):
    """Return the rows of the table whose first column is headed ``header``, as lists of cells."""
    body = re.search(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in body.splitlines()]


async def test_the_python_client_runs(server, tmp_path):
    """The page's client streams pictures to a server and prints a line for each."""
    (tmp_path / "stream.py").write_text(block("python"))
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.jpg").write_bytes(picture(width=32, form="JPEG"))
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    arguments = ["stream.py", server.url, server.key, "fake-detect", "a.png", "c.jpg", "b.jpg"]
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(running.communicate(), 30)
    first, second, third = output.decode().splitlines()
    assert running.returncode == 0
    assert first.startswith("a.png 0 [{'label': '64x48'")
    assert second.startswith("c.jpg error: image cannot be decoded")
    assert third.startswith("b.jpg 2 [{'label': '32x48'")


def test_the_close_codes_are_those_of_the_code():
    """The table has every code that the server closes with, besides aiohttp's own."""
    ours = {stream_channel.NORMAL, stream_channel.GOING_AWAY, stream_channel.INTERNAL}
    ours |= {stream.POLICY, stream.UNAUTHORIZED, stream.NO_SESSION}
    assert {int(code) for code, *_ in rows("code")} == ours | {1002, 1007, 1009, 1013}


def test_the_defaults_are_those_of_the_settings():
    """Every setting of the table has its default."""
    settings = config.Settings()
    for name, default, _ in rows("setting"):
        value = getattr(settings, name.strip("`"))
        shown = default.removesuffix(" s").removesuffix(" MB")
        assert str(value).removesuffix(".0").lower() == shown


async def test_the_fields_of_a_result_are_those_of_the_table(http):
    """A stream's result has the fields of a single inference and those of the table, no more."""
    described = {row[0].strip("`") for row in rows("field")}
    headers = {"Content-Type": "image/png"}
    async with http.post("/v1/infer?model=fake-detect", data=PNG, headers=headers) as response:
        single = set(await response.json())
    async with http.ws_connect(f"/v1/stream/{await open_session(http)}") as ws:
        await ws.send_bytes(PNG)
        streamed = await ws.receive_json(timeout=10)
        await ws.send_bytes(PNG[: len(PNG) // 2])
        error = await ws.receive_json(timeout=10)
    assert set(streamed) - single == described - {"reset"}
    assert json.loads(re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1]) == {
        **error,
        "frame_id": 18,
    }


def test_the_example_of_a_result_is_one():
    """The page's result decodes into the public struct, which knows all of its fields."""
    shown = json.loads(block("json"))
    response = results.decode(block("json").encode())
    assert json.loads(msgspec.json.encode(response)) == shown


def test_the_numbers_in_the_text_are_those_of_the_code():
    """The window and the patience at the end are told as they are."""
    words = {4: "four"}
    assert f"While {words[stream_channel.PING_WINDOW]} pings are unanswered" in PAGE
    assert f"if a frame takes less than {stream_connection.FAST_FRAME_MS:g} ms" in PAGE
    assert f"The server waits {stream.CLOSE_TIMEOUT:g} seconds" in PAGE

"""Recognisers that write text, served over REST: whole, in pieces, and several at once."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mataserver import testing
from mataserver.config import load
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover

POINTS = testing.installed("hf")
ENDLESS = 130
"""A grey that the checkpoint was not taught: what it writes for it is long."""


def page(grey):
    """Return a picture of one grey as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), grey, np.uint8)).save(buffer, "PNG")
    return {"data": buffer.getvalue(), "headers": {"Content-Type": "image/png"}}


@pytest.fixture
async def http(tmp_path, checkpoint):
    """A server whose tiny TrOCR reads four pictures at once."""
    settings = load(environ={}, directory=tmp_path, data_dir=str(tmp_path))
    registry = Registry(tmp_path / "model_registry.json")
    Catalog(settings, registry, discover(settings, POINTS)).add_local(checkpoint("trocr"), "ocr")
    models = [{"model": "trocr", "max_batch": 4}]
    async with (
        testing.serving(tmp_path, entry_points=POINTS, engine="process", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


async def test_what_is_read_is_served(http, tiny_reading):
    """Several at once get their own texts, whole and in pieces, whoever leaves meanwhile."""

    async def whole(grey):
        async with http.post("/v1/infer", params={"model": "trocr"}, **page(grey)) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["text"]

    async def pieces(grey):
        given = page(grey)
        given["headers"]["Accept"] = "text/event-stream"
        async with http.post("/v1/infer", params={"model": "trocr"}, **given) as response:
            lines = (await response.text()).splitlines()
        *written, result = [json.loads(each[6:]) for each in lines if each.startswith("data: ")]
        assert len(written) > 1
        assert all(each["text"] for each in written)
        assert "".join(each["text"] for each in written) == result["text"]
        return result["text"]

    greys = [*tiny_reading.LINES] * 3
    leaving = [asyncio.create_task(whole(ENDLESS)) for _ in range(2)]
    asked = [asyncio.create_task(how(grey)) for grey in greys for how in (whole, pieces)]
    await asyncio.sleep(0)
    for each in leaving:
        each.cancel()
    expected = [tiny_reading.LINES[grey] for grey in greys for _ in range(2)]
    assert await asyncio.gather(*asked) == expected
    assert await whole(greys[0]) == tiny_reading.LINES[greys[0]]

"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mataserver.testing import check_plugin, installed, serving
from mataserver_client import AsyncClient


@pytest.fixture
def picture():
    """A chessboard of fields of 8 x 8 pixels."""
    squares = np.indices((120, 160)).sum(axis=0) // 8 % 2 * 200
    return Image.fromarray(np.repeat(squares[:, :, None], 3, axis=2).astype(np.uint8))


def png(image):
    """Return a picture as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("focus") == []


@pytest.mark.asyncio
async def test_sharp_and_blurred(tmp_path, picture):
    """A picture is sharp, and blurred after a Gaussian blur, over REST."""
    model = {"model": "focus", "task": "classify"}
    async with (
        serving(tmp_path, entry_points=installed("focus"), models=[model]) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        sharp = await client.infer("focus", png(picture))
        blurred = await client.infer("focus", png(picture.filter(ImageFilter.GaussianBlur(6))))
    assert sharp.classifications[0].label == "sharp"
    assert blurred.classifications[0].label == "blurred"
    assert sharp.classifications[0].confidence > 0.9
    assert blurred.classifications[0].confidence > 0.9


@pytest.mark.asyncio
async def test_a_single_pixel_is_blurred(tmp_path, picture):
    """The smallest picture gets a result, and the setting changes the result."""
    settings = {"focus": {"half_sharp": 1e9}}
    model = {"model": "focus", "task": "classify"}
    async with (
        serving(
            tmp_path, entry_points=installed("focus"), models=[model], plugins=settings
        ) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        for image in (picture, picture.crop((0, 0, 1, 1))):
            answer = await client.infer("focus", png(image))
            assert answer.classifications[0].label == "blurred"

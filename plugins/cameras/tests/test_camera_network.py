"""What a reader says of a camera in the network, and when it gives one up."""

from __future__ import annotations

import asyncio
import io
import ssl
import subprocess
import threading

import av
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from camera_sources import rtsp
from conftest import picture
from mataserver import PendingFrame, UnreadableVideo
from mataserver_cameras import reader
from mataserver_cameras.messages import OpenRequest
from mataserver_cameras.reader import NewestFrame, decode, live_frames, problem

MULTIPART = "multipart/x-mixed-replace; boundary=x"


def read(url, kind="rtsp", timeout=1.0):
    """Return how many frames a camera gave, and the sentence that ended it."""
    opening, count = OpenRequest(url, kind, timeout, 1 << 20), 0
    try:
        for _ in live_frames(opening):
            count += 1
    except Exception as error:  # noqa: BLE001 - whatever it is must become a sentence
        return count, problem(error, opening)
    return count, ""


async def test_a_camera_that_sends_over_udp_only():
    """The server asks for TCP alone, and says so."""
    async with rtsp() as camera:
        camera.refuses_tcp = True
        assert await asyncio.to_thread(read, camera.url()) == (0, "it does not send over TCP")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("rtsp://u:p@camera.invalid/live", "rtsp", "the name of its host is not known"),
        ("http://camera.invalid/live", "http", "the name of its host is not known"),
        ("rtsps://127.0.0.1/live", "rtsp", "the connection failed"),
        (
            "http://127.0.0.1/live",
            "http",
            "the connection failed, or it redirects, which is not followed",
        ),
    ],
)
def test_one_error_of_ffmpeg_has_several_causes(url, kind, said):
    """It has the same number for a name that nobody knows, for TLS and for a redirect."""
    error, opening = av.error.OSError(5, "x"), OpenRequest(url, kind, 1.0, 1 << 20)
    assert problem(error, opening) == said
    assert problem(error, opening, begun=True) == "the connection failed"


@pytest.fixture
def self_signed(tmp_path):
    """TLS with a certificate that nobody else has signed, as cameras have one."""
    file, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera"]
    try:
        subprocess.run([*made, "-out", file, "-keyout", key], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, key)
    return context


async def test_a_camera_with_a_certificate_of_its_own(self_signed):
    """Over HTTPS its certificate is not checked."""

    async def stream(_request):
        part = b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + picture(form="JPEG") + b"\r\n"
        return web.Response(body=part * 20, headers={"Content-Type": MULTIPART})

    camera = web.Application()
    camera.router.add_get("/video", stream)
    server = TestServer(camera, scheme="https")
    await server.start_server(ssl=self_signed)
    try:
        url = str(server.make_url("/video"))
        count, said = await asyncio.to_thread(read, url, "http", 5.0)
    finally:
        await server.close()
    assert (url[:8], said) == ("https://", "")
    assert count > 0


def greys():
    """Return JPEGs of 16 greys as parts of a stream; the twelfth is cut off."""
    parts = []
    for each in range(16):
        data = io.BytesIO()
        Image.new("RGB", (160, 120), (each * 16,) * 3).save(data, "JPEG")
        body = data.getvalue()[:700] if each == 11 else data.getvalue()
        parts.append(b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + body + b"\r\n")
    return b"".join(parts)


def grey(frame):
    """Return which of the greys a frame shows, None for no frame."""
    return frame and round(float(frame.to_ndarray(format="gray").mean()) / 16)


async def frames_of_greys():
    """Return what a reader makes of a camera that sends the greys."""

    async def stream(_request):
        return web.Response(body=greys(), headers={"Content-Type": MULTIPART})

    camera = web.Application()
    camera.router.add_get("/video", stream)
    async with TestServer(camera) as server:
        opening = OpenRequest(str(server.make_url("/video")), "http", 5.0, 1 << 20)
        return await asyncio.to_thread(lambda: list(live_frames(opening)))


async def test_motion_jpeg_is_decoded_when_it_is_used():
    """Each frame but the first is decoded by itself, in any number, and a damaged one is none."""
    first, *others = await frames_of_greys()
    assert all(isinstance(each, PendingFrame) for each in others)
    begun = grey(first) + 1
    shown = [grey(each.decode()) for each in others]
    assert shown == [None if each == 11 else each for each in range(begun, 16)]


async def test_damage_of_a_frame_that_is_used():
    """It is counted with the next one that is whole; where all are damaged the source is lost."""
    first, *others = await frames_of_greys()
    damaged = others[11 - grey(first) - 1]
    newest = NewestFrame(0.2)
    newest.put(damaged)
    threading.Timer(0.1, newest.put, (others[-1],)).start()
    frame, *counts = await asyncio.to_thread(newest.take)
    assert (grey(frame), counts) == (15, [2, 1])
    newest.put(damaged)
    threading.Timer(0.3, newest.put, (damaged,)).start()
    with pytest.raises(UnreadableVideo, match="arrive damaged"):
        await asyncio.to_thread(newest.take)


async def test_a_stream_of_pictures_that_are_no_jpegs():
    """FFmpeg reads no other; what it says of them is what it says of damage."""

    async def stream(_request):
        part = b"--x\r\nContent-Type: image/png\r\n\r\n" + picture(form="PNG") + b"\r\n"
        return web.Response(body=part * 20, headers={"Content-Type": MULTIPART})

    camera = web.Application()
    camera.router.add_get("/video", stream)
    async with TestServer(camera) as server:
        found = await asyncio.to_thread(read, str(server.make_url("/video")), "http", 5.0)
    why = "it sends pictures one by one that are no JPEGs"
    assert found == (0, f"it is no video, or damaged, or {why}")


async def test_a_single_picture_is_no_stream():
    """The address of one JPEG gives no frame; why is told instead of the end of a stream."""

    async def photo(_request):
        return web.Response(body=picture(form="JPEG"), content_type="image/jpeg")

    camera, newest = web.Application(), NewestFrame()
    camera.router.add_get("/photo.jpg", photo)
    async with TestServer(camera) as server:
        opening = OpenRequest(str(server.make_url("/photo.jpg")), "http", 5.0, 1 << 20)
        await asyncio.to_thread(decode, opening, newest)
    with pytest.raises(UnreadableVideo, match="a single picture is no stream"):
        newest.take()


async def test_a_playlist_is_told_to_be_none_that_is_read():
    """An HLS address names further ones: it is refused, and why is told."""

    async def playlist(_request):
        text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n0.ts\n"
        return web.Response(text=text, content_type="application/vnd.apple.mpegurl")

    camera = web.Application()
    camera.router.add_get("/live.m3u8", playlist)
    async with TestServer(camera) as server:
        url = str(server.make_url("/live.m3u8"))
        found = await asyncio.to_thread(read, url, "http", 5.0)
    assert found == (0, "it sends what is not read: a playlist (HLS, DASH), or a rare format")


async def test_a_camera_whose_data_is_no_picture(monkeypatch):
    """One that sends for ever what nothing can be decoded of is given up, and that is why."""
    monkeypatch.setattr(reader, "DECODING", 0.0)
    whole = picture(form="JPEG")
    part = b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + whole[:20] + b"\xff" * 400 + b"\r\n"

    async def stream(request):
        answer = web.StreamResponse(headers={"Content-Type": MULTIPART})
        await answer.prepare(request)
        while True:  # until the reader leaves
            await answer.write(part)
            await asyncio.sleep(0.02)

    camera = web.Application()
    camera.router.add_get("/video", stream)
    async with TestServer(camera) as server:
        found = await asyncio.to_thread(read, str(server.make_url("/video")), "http")
    why = f"they are damaged, or larger than {1 << 20} pixels"
    assert found == (0, f"none of its frames can be decoded: {why}")

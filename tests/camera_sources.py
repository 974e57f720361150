"""What the tests of cameras film: videos made here, and an RTSP server made of bytes (RFC 2326).

The picture is grey, 96x64, with a red box at ``BOX``; H.264 goes over the connection's own channel
as RTP (RFC 6184), which is how cameras are asked for it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fractions
import functools
import re
import struct

import av
import numpy as np

WIDTH, HEIGHT, RATE = 96, 64, 25
BOX = (32, 16, 64, 48)
PACKET_BYTES = 1200


def pixels(box=BOX):
    """Return the picture, with its red box."""
    array = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    array[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    return array


def make_video(path, *, count=10, rate=RATE, boxes=(BOX,), audio=False):
    """Write a video of ``count`` frames; the boxes take turns. With ``audio`` it is sound alone."""
    with av.open(str(path), "w") as container:
        if audio:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.rate = 8000
            container.mux([*stream.encode(sound), *stream.encode(None)])
            return path
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(pixels(boxes[index % len(boxes)]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@functools.cache
def access_units():
    """Return ten encoded frames, the first a key frame; each is a list of its NAL units."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = fractions.Fraction(1, RATE)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
    units = []
    for index in range(10):
        frame = av.VideoFrame.from_ndarray(pixels())
        frame.pts = index
        data = b"".join(bytes(packet) for packet in encoder.encode(frame))
        units.append([nal for nal in re.split(rb"\x00\x00\x00?\x01", data) if nal])
    return units


def rtp_payloads(nal):
    """Return what one NAL unit is sent as: itself, or in fragments."""
    if len(nal) <= PACKET_BYTES:
        return [nal]
    parts = [nal[at : at + PACKET_BYTES] for at in range(1, len(nal), PACKET_BYTES)]
    kind, flags = nal[0] & 31, [0] * len(parts)
    flags[0], flags[-1] = 0x80, 0x40
    head = nal[0] & 0xE0 | 28
    return [bytes([head, flag | kind]) + part for flag, part in zip(flags, parts, strict=True)]


class RtspServer:
    """A camera. While ``silent`` it sends no frame; with a ``password`` it knows the user ``user``.

    Of every ten frames, the first of which is a key frame, it does not send those of ``lost``.
    With ``refuses_tcp`` it sends over UDP only. ``stop`` closes it and every connection; ``start``
    opens it again on the same port.
    """

    def __init__(self, password=None):
        self.password = password
        self.silent = self.refuses_tcp = False
        self.lost = frozenset()
        self.plays = 0
        self.port = 0
        self._server = None
        self._tasks = set()

    def url(self, user=""):
        """Return the camera's address."""
        return f"rtsp://{user}{'@' if user else ''}127.0.0.1:{self.port}/live"

    async def start(self):
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        """Vanish."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        playing = None
        try:
            while request := await self._request(reader):
                method, headers = request
                writer.write(self._answer(method, headers))
                if method == "PLAY" and playing is None:
                    self.plays += 1
                    playing = asyncio.create_task(self._play(writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
            writer.transport.abort()
            self._tasks.discard(task)

    async def _request(self, reader):
        """Return method and headers of the next request, passing over what comes in between."""
        while (first := await reader.readexactly(1)) == b"$":
            head = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(head[1:], "big"))
        lines = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return lines[0].split()[0], headers | {"authorization": self._given(lines)}

    def _given(self, lines):
        found = [line for line in lines if line.lower().startswith("authorization: basic ")]
        return base64.b64decode(found[0].split()[-1]).decode() if found else None

    def _answer(self, method, headers):
        said, body = {"CSeq": headers.get("cseq", "0"), "Session": "1"}, ""
        status = "200 OK"
        if self.password is not None and headers["authorization"] != f"user:{self.password}":
            status, said["WWW-Authenticate"] = "401 Unauthorized", 'Basic realm="camera"'
        elif method == "OPTIONS":
            said["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
        elif method == "DESCRIBE":
            said["Content-Type"] = "application/sdp"
            body = (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                "a=fmtp:96 packetization-mode=1\r\na=control:track0\r\n"
            )
        elif method == "SETUP" and self.refuses_tcp:
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            said["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
        said["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        return f"RTSP/1.0 {status}\r\n{head}\r\n{body}".encode()

    async def _play(self, writer):
        """Send the frames over and over, at their rate."""
        sequence = number = 0
        while True:
            if not self.silent:
                unit = access_units()[number % 10]
                is_sent = number % 10 not in self.lost
                payloads = [part for nal in unit for part in rtp_payloads(nal)] if is_sent else []
                for payload in payloads:
                    marker = 0x80 if payload is payloads[-1] else 0
                    stamp = number * 90_000 // RATE & 0xFFFFFFFF
                    rtp = struct.pack("!BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 7)
                    writer.write(b"$\0" + struct.pack("!H", len(rtp + payload)) + rtp + payload)
                    sequence += 1
                await writer.drain()
                number += 1
            await asyncio.sleep(1 / RATE)


@contextlib.asynccontextmanager
async def rtsp(password=None):
    """Run a camera; yield it."""
    server = RtspServer(password)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

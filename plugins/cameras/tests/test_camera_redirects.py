"""A camera leads nowhere else: what its host was looked at for is all that is asked."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading

import av
import pytest

from mataserver_cameras.messages import OpenRequest
from mataserver_cameras.reader import live_frames
from mataserver_cameras.reader_process import ReaderProcess, SourceLost

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n%s\n#EXT-X-ENDLIST\n"


@contextlib.contextmanager
def answering(answer):
    """Run a server that answers as ``answer(handler)`` does; yield its URL and what was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def missing(handler):
    """Answer 404."""
    handler.send_error(404)


@pytest.mark.parametrize("kind", ["redirect", "playlist"])
def test_another_host_is_not_asked(kind):
    """Neither by a redirect nor by a playlist."""
    with answering(missing) as (elsewhere, asked):

        def lead(handler):
            if kind == "redirect":
                handler.send_response(302)
                handler.send_header("Location", f"{elsewhere}/secret")
                handler.end_headers()
                return
            body = PLAYLIST % f"{elsewhere}/secret.ts".encode()
            handler.send_response(200)
            handler.send_header("Content-Type", "application/vnd.apple.mpegurl")
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        with answering(lead) as (url, _), pytest.raises(av.error.FFmpegError):
            next(live_frames(OpenRequest(f"{url}/live.m3u8", "http", 5.0, 1 << 20)))
    assert asked == []


@contextlib.contextmanager
def answering_rtsp(answer):
    """Run a server of RTSP that answers ``answer(method)``; yield its URL and what was asked."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while head := b"".join(iter(self.rfile.readline, b"\r\n")):
                lines = head.decode().splitlines()
                number = next(line for line in lines if line.lower().startswith("cseq:"))
                asked.append(lines[0])
                told = answer(lines[0].partition(" ")[0])
                self.wfile.write(f"RTSP/1.0 {told}{number}\r\n\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("at", ["OPTIONS", "DESCRIBE"])
async def test_a_camera_by_rtsp_leads_nowhere_else(at):
    """Whichever of its answers is a redirect; what comes of it is told."""

    def lead(method):
        if method == at:
            return f"302 Moved\r\nLocation: {elsewhere}/secret\r\n"
        return "200 OK\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n"

    with (
        answering_rtsp(lambda _: "404 Not Found\r\n") as (elsewhere, asked),
        answering_rtsp(lead) as (url, _),
    ):
        link = await ReaderProcess.start(OpenRequest(f"{url}/live", "rtsp", 20.0, 1 << 20))
        try:
            with pytest.raises(SourceLost, match="redirects to another address"):
                await link.frame()
        finally:
            await link.close()
    assert asked == []

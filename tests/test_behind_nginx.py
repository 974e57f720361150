"""The proxy's configuration of docs/security.md, in nginx: TLS, WebSockets, uploads, a prefix."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import shutil
import socket
import ssl
import subprocess

import aiohttp
import pytest

from conftest import POINTS, picture, register
from markdown_pages import read
from mataserver import testing

PNG = picture()
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
SERVER = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {upgrade}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        {location}
    }}
}}
"""
CERTIFICATE = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
CERTIFICATE += ["-subj", "/CN=localhost"]


def documented(port, prefix=""):
    """Return the map and the location of the page, for a server on ``port``."""
    blocks = re.findall(r"```nginx\n(.*?)```", read("security.md"), re.DOTALL)
    upgrade = re.search(r"# (map .*? \})$", blocks[0], re.MULTILINE)[1]
    location = blocks[0]
    if prefix:  # the second block says what differs
        first, passed, *more = blocks[1].strip().splitlines()
        location = re.sub(r"^location / \{$", first, location, flags=re.MULTILINE)
        location = re.sub(r"^ +proxy_pass .*$", passed, location, flags=re.MULTILINE)
        location = location.rstrip().removesuffix("}") + "\n".join(more)
    assert "127.0.0.1:8110" in location
    return upgrade, location.replace("127.0.0.1:8110", f"127.0.0.1:{port}")


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def proxied(folder, prefix="", **settings):
    """Run a server behind nginx; yield an HTTP session at the proxy, and its address."""
    register(folder / "data", {"fake-detect": "detect"})
    openssl = [*CERTIFICATE, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(openssl, check=True, capture_output=True)
    settings = {"engine": "thread", "trust_proxy": True} | settings
    async with testing.serving(folder / "data", entry_points=POINTS, **settings) as served:
        upgrade, location = documented(served.url.rpartition(":")[2], prefix)
        port = free_port()
        text = SERVER.format(folder=folder, port=port, upgrade=upgrade, location=location)
        (folder / "nginx.conf").write_text(text)
        command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        with subprocess.Popen([*command, "-e", str(folder / "error.log")]) as nginx:
            try:
                trusted = ssl.create_default_context(cafile=folder / "cert.pem")
                connector = aiohttp.TCPConnector(ssl=trusted)
                address = f"https://localhost:{port}"
                async with aiohttp.ClientSession(address, connector=connector) as http:
                    await listening(port)
                    yield http, address
            finally:
                nginx.terminate()


async def listening(port):
    """Wait until somebody listens on a port."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


KEY = {"Authorization": "Bearer test-key"}


@pytest.mark.parametrize("prefix", ["", "/vision"])
async def test_what_a_client_does(tmp_path, prefix):
    """Inference, a form, a session whose address is the proxy's, its frames, and an end in words.

    The OpenAPI document tells the prefix.

    A body over the server's limit is refused by the server, in its form; no key, no answer.
    """
    async with proxied(tmp_path, prefix, max_body_mb=2) as (http, address):
        image = {"data": PNG, "headers": {**KEY, "Content-Type": "image/png"}}
        async with http.post(f"{prefix}/v1/infer?model=fake-detect", **image) as response:
            assert (response.status, "detections" in await response.json()) == (200, True)
        form = aiohttp.FormData({"model": "fake-detect"})
        form.add_field("file", PNG, filename="a.png")
        async with http.post(f"{prefix}/v1/infer/upload", data=form, headers=KEY) as response:
            assert response.status == 200
        large = {**image, "data": io.BytesIO(bytes(50_000_000))}
        async with http.post(f"{prefix}/v1/infer?model=fake-detect", **large) as response:
            assert (response.status, list(await response.json())) == (413, ["detail"])
        async with http.get(f"{prefix}/v1/models") as response:
            assert response.status == 401
        asked = {"json": {"model": "fake-detect"}, "headers": KEY}
        async with http.get(f"{prefix}/openapi.json") as response:
            servers = (await response.json()).get("servers")
        assert servers == (
            [{"url": prefix}] if prefix else None
        )  # where Swagger sends its requests
        async with http.post(f"{prefix}/v1/sessions", **asked) as response:
            url = (await response.json())["ws_url"]
        assert url.startswith(f"wss://{address.removeprefix('https://')}{prefix}/v1/stream/")
        async with http.ws_connect(f"{url}?token=test-key") as stream:
            for number in range(3):
                await stream.send_bytes(PNG)
                assert (await stream.receive_json(timeout=30))["frame_id"] == number


async def test_a_browser_signs_in(tmp_path):
    """The cookie is for TLS alone; the proxy's own pages count as the server's, others do not."""
    async with proxied(tmp_path) as (http, address):
        signed = {"headers": {"Origin": address}, "json": {"key": "test-key"}}
        async with http.post("/v1/session", **signed) as response:
            assert response.status == 200, await response.text()
            assert "Secure" in response.headers["Set-Cookie"]
        async with http.get("/v1/models", headers={"Origin": address}) as response:
            assert response.status == 200
        async with http.get("/v1/models", headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403

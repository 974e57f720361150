"""A server whose certificate is not trusted, or that speaks no TLS, is told as such."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys

import pytest
from aiohttp import ClientConnectorSSLError, web

from mataserver_client import AsyncClient, ConnectionFailed
from mataserver_client.unreachable import from_exception


@pytest.fixture
def certificate(tmp_path):
    """A certificate that only itself has signed, with its key, by OpenSSL's tool."""
    file, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-out", file, "-keyout", key]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    return file, key


@contextlib.asynccontextmanager
async def listening(context):
    """A server that answers every request with an empty list; yields its address without scheme."""

    async def answer(_request):
        return web.json_response([])

    application = web.Application()
    application.add_routes([web.get("/v1/models", answer)])
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("WRONG_VERSION_NUMBER", "here does not speak TLS: is its address http://?"),
        ("RECORD_LAYER_FAILURE", "here does not speak TLS: is its address http://?"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", None),
    ],
)
def test_reasons_of_openssl(reason, told):
    """Only what is no TLS at all is told as such; any other reason is named."""
    error = ssl.SSLError(1, "refused")
    error.reason = reason
    failed = from_exception(ClientConnectorSSLError(None, error), "here")
    assert failed.detail == (told or f"No TLS connection to here ({reason})")


async def test_a_certificate_of_its_own(certificate):
    """The sentence says what is wrong with it, and the variable that it names helps."""
    file, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    async with listening(context) as where:
        url = f"https://{where}"
        async with AsyncClient(url) as client:
            with pytest.raises(ConnectionFailed) as refused:
                await client.models()
        assert refused.value.detail == (
            f"The certificate of {where} is not trusted (self-signed certificate): "
            "SSL_CERT_FILE names a file of certificates that are"
        )
        code = (
            "import sys, mataserver_client as m\n"
            "with m.Client(sys.argv[1]) as client: print(client.models())"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, url, env={"SSL_CERT_FILE": str(file)},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert (await child.communicate())[0] == b"[]\n"


async def test_a_server_without_tls():
    """The address probably begins with the wrong scheme."""
    async with listening(None) as where, AsyncClient(f"https://{where}") as client:
        with pytest.raises(ConnectionFailed, match="does not speak TLS: is its address http://"):
            await client.models()

"""Contexts that read the system's certificates at their first use: those they trust, and nobody."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from mataserver.errors import BadRequest
from mataserver.late_certificates import reading_late
from mataserver.outbound import ANY, Hosts, Outbound, Policy

PROGRAM = """
import asyncio, json, ssl, sys
from mataserver.late_certificates import reading_late
with reading_late():
    import aiohttp
assert "set_default_verify_paths" not in vars(ssl.SSLContext)
from aiohttp.connector import _SSL_CONTEXT_VERIFIED as context

async def status():
    async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as answer:
        return answer.status

async def both():
    return await asyncio.gather(status(), status(), return_exceptions=True)

before = context.cert_store_stats()["x509"]
run = asyncio.run if sys.argv[2] == "asyncio" else __import__("uvloop").run
answers = run(both())
names = [each if isinstance(each, int) else type(each).__name__ for each in answers]
print(json.dumps([before, names, context.cert_store_stats()["x509"]]))
"""
MAKE = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
MAKE += ["-addext", "subjectAltName=DNS:localhost"]
OPENSSL = shutil.which("openssl")


class Ok(BaseHTTPRequestHandler):
    """Answers 200."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two certificates for localhost, each with its key."""
    if OPENSSL is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ours", "theirs"):
        files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        subprocess.run([OPENSSL, *MAKE, *files], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def address(certificates):
    """A server with the certificate of ours."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ok)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "ours.pem", certificates / "ours.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"https://localhost:{server.server_port}/"
    server.shutdown()
    serving.join()
    server.server_close()


def asked(address, trusted, loop):
    """Ask in a process of its own that trusts one certificate; return what it prints."""
    environ = {**os.environ, "SSL_CERT_FILE": str(trusted), "SSL_CERT_DIR": str(trusted.parent)}
    command = [sys.executable, "-c", PROGRAM, address, loop]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_certificates_are_read_for_the_first_connection(address, certificates, loop):
    """Two connections at once: nothing is read before them, and the server is known."""
    assert asked(address, certificates / "ours.pem", loop) == "[0, [200, 200], 1]\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_is_not_known_is_refused(address, certificates, loop):
    """A server whose certificate is not among the system's is refused."""
    refused = '["ClientConnectorCertificateError", "ClientConnectorCertificateError"]'
    assert asked(address, certificates / "theirs.pem", loop) == f"[0, {refused}, 1]\n"


async def test_what_is_told_of_it(address):
    """An address that is asked in the name of a client is refused for its certificate."""
    outbound = Outbound(Hosts.of([ANY]))
    with pytest.raises(BadRequest, match="url: the certificate of the address is not trusted"):
        async with outbound.request("GET", address, Policy()):
            pass


def test_a_plain_socket_reads_them_too(address, certificates, monkeypatch):
    """A socket that is wrapped without a loop has them read, once."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ours.pem"))
    with reading_late():
        context = ssl.create_default_context()
    assert context.cert_store_stats()["x509"] == 0
    host, port = urlsplit(address).netloc.split(":")
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", int(port))) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    assert context.cert_store_stats()["x509"] == 1


def test_contexts_of_other_threads_read_them_at_once(certificates, monkeypatch):
    """Whoever makes a context meanwhile finds the certificates in it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ours.pem"))
    made = []
    with reading_late():
        other = threading.Thread(target=lambda: made.append(ssl.create_default_context()))
        other.start()
        other.join()
    assert made[0].cert_store_stats()["x509"] == 1
    assert ssl.create_default_context().cert_store_stats()["x509"] == 1

"""Where the command line looks for a server, and to whom it shows the stored key."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli_terminal import Terminal
from mataserver import config
from mataserver.cli.remote import key_for
from mataserver.config.addresses import is_loopback, server_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8110"),
        ("0.0.0.0", "http://localhost:8110"),
        ("::", "http://localhost:8110"),
        ("", "http://localhost:8110"),
        ("::1", "http://[::1]:8110"),
        ("box.lan", "http://box.lan:8110"),
    ],
)
def test_server_url(host, url):
    """A host that stands for every interface is reached at localhost."""
    assert server_url(config.Settings(host=host)) == url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.10", False),
        ("localhost.example.org", False),
    ],
)
def test_is_loopback(host, loopback):
    """Only addresses of the loopback, and the name localhost, are this machine alone."""
    assert is_loopback(host) is loopback


def test_stored_key_stays_here(tmp_path):
    """The key that this machine's server made is shown to this machine's server only."""
    (tmp_path / "api_key").write_text("mata_stored\n")
    settings = config.Settings(data_dir=str(tmp_path))
    assert key_for(settings, None) == "mata_stored"
    assert key_for(settings, "http://localhost:8110") == "mata_stored"
    assert key_for(settings, "http://[::1]:8110") == "mata_stored"
    assert key_for(settings, "http://192.168.1.10:8110") is None


def test_client_key_goes_anywhere(tmp_path):
    """The client's own key is sent wherever the user points."""
    settings = config.Settings(data_dir=str(tmp_path), api_key="mine", api_keys=["servers"])
    assert key_for(settings, None) == "mine"
    assert key_for(settings, "http://192.168.1.10:8110") == "mine"


def test_no_key_beside_a_user(tmp_path):
    """Both have one header: what was given for this server is sent, and not what is kept."""
    (tmp_path / "api_key").write_text("mata_stored\n")
    settings = config.Settings(data_dir=str(tmp_path), api_key="mine")
    assert key_for(settings, "http://ada:pa55@localhost:8110") is None


@pytest.mark.parametrize(
    ("scopes", "shown"),
    [
        ([["infer"], None, None], "key-1"),
        ([["infer"], ["admin"]], "key-1"),
        ([["infer"], ["infer", "models:read"]], "key-1"),
        ([["infer"], ["jobs:read"]], "key-0"),
    ],
)
def test_the_key_that_may_do_most_is_shown(tmp_path, scopes, shown):
    """Of the server's own keys a command takes the first that may do most, not the first."""
    keys = [config.ApiKey(key=f"key-{at}", scopes=each) for at, each in enumerate(scopes)]
    settings = config.Settings(data_dir=str(tmp_path), api_keys=keys)
    assert key_for(settings, None) == shown


class Foreign(BaseHTTPRequestHandler):
    """A server of something else: rows without the fields of ours."""

    def do_GET(self):
        """Answer."""
        body = b'[{"name": "db-1"}]'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def foreign():
    """The address of such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.mark.parametrize("command", ["status", "frontends"])
def test_rows_of_another_server(tmp_path, monkeypatch, foreign, command):
    """Rows that are none of this API are an error in words."""
    result = Terminal(tmp_path, monkeypatch).run("cluster", command, "--url", foreign)
    assert result.exit_code == 1
    assert "not one of this API" in result.stderr

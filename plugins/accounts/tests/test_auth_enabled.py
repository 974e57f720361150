"""``AUTH_ENABLED=false``: everybody is answered on the loopback, and nowhere else."""

from __future__ import annotations

import contextlib
import json
import signal
import urllib.error
import urllib.request

import pytest

from cli_terminal import Terminal, said, serving
from mataserver import config, plugins, testing

OFF = {"AUTH_ENABLED": "false"}


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    """A command line without the variable."""
    monkeypatch.delenv("AUTH_ENABLED", raising=False)
    return Terminal(tmp_path, monkeypatch)


def ask(url, **headers):
    """Return the status of a request without a key."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def mode(folder, environ, yaml="", dotenv="", *, names=("accounts",), **options):
    """Return ``auth_mode``, and its origin, from these sources, also where a start is refused."""
    (folder / "mataserver.yaml").write_text(yaml)
    (folder / ".env").write_text(dotenv)
    settings, origins = config.read(environ=environ, directory=folder, **options)
    found = plugins.discover(settings, testing.installed(*names), {})
    with contextlib.suppress(config.ConfigError):
        settings, origins = plugins.settle_auth_mode(settings, origins, found, environ)
    return settings.auth_mode, origins.get("auth_mode")


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_on_the_loopback(tmp_path, host):
    """Wherever the host is given, only this machine reaches it, and it is the environment's."""
    assert mode(tmp_path, OFF, host=host) == ("none", "environment")
    if host is not None:
        assert mode(tmp_path, OFF, yaml=f"host: '{host}'") == ("none", "environment")
        assert mode(tmp_path, OFF | {"SERVER_HOST": host})[0] == "none"


@pytest.mark.parametrize("word", ["0", "no", "OFF", " False "])
def test_the_words_for_no(tmp_path, word):
    """These words are a no; all others leave the mode as it is."""
    assert mode(tmp_path, {"AUTH_ENABLED": word})[0] == "none"
    for other in ("", "true", "nope"):
        assert mode(tmp_path, {"AUTH_ENABLED": other}) == ("api_key", None)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "::ffff:0.0.0.0", "box.lan"])
def test_where_others_reach_it(tmp_path, host):
    """A host that is not the loopback is not opened, by whatever source; an option wins."""
    if host:  # an empty one is refused as such
        assert mode(tmp_path, OFF, yaml=f"host: '{host}'") == ("api_key", None)
        assert mode(tmp_path, OFF, yaml=f"host: '{host}'", host="127.0.0.1")[0] == "none"
    assert mode(tmp_path, OFF, yaml="host: 127.0.0.1", host=host or "0.0.0.0")[0] == "api_key"


@pytest.mark.parametrize(
    ("yaml", "opened"),
    [
        ("trust_proxy: true", False),
        ("{shared_dir: s, frontend_address: 'http://10.0.0.5:8110'}", False),
        ("{shared_dir: s, frontend_address: 'http://[fd00::5]:8110'}", False),
        ("{shared_dir: s, frontend_address: 'http://127.0.0.1:8110'}", True),
        ("{shared_dir: s, frontend_address: 'http://[::1]:8110'}", True),
        ("allowed_hosts: [localhost, models.example]", False),
        ("allowed_hosts: ['*']", False),
        ("allowed_hosts: [localhost]", True),
        ("api_keys: [secret]", False),
        ("api_key: secret", False),
        ("api_keys: []", True),
    ],
)
def test_what_else_tells_that_others_reach_it(tmp_path, yaml, opened):
    """Names and addresses of other machines, a proxy, and keys that are to be asked for."""
    assert mode(tmp_path, OFF, yaml=yaml)[0] == ("none" if opened else "api_key")


def test_what_counts_more(tmp_path):
    """An ``auth_mode`` that somebody wrote, a disabled plugin, and a variable of ``.env``."""
    for yaml in ("auth_mode: api_key", "plugins: {disabled: [mataserver-accounts]}"):
        assert mode(tmp_path, OFF, yaml=yaml)[0] == "api_key"
    assert mode(tmp_path, OFF, dotenv="MATA_SERVER_AUTH_MODE=api_key")[0] == "api_key"
    assert mode(tmp_path, OFF, yaml="auth_mode: none") == ("none", "yaml")
    assert mode(tmp_path, {}, dotenv="AUTH_ENABLED=false") == ("api_key", None)
    assert mode(tmp_path, {"AUTH_ENABLED": "true"}, dotenv="AUTH_ENABLED=false")[0] == "api_key"


def test_without_the_plugin(tmp_path):
    """Where accounts are not installed the variable means nothing."""
    assert mode(tmp_path, OFF, names=()) == ("api_key", None)


def test_a_server_that_answers_everybody(terminal, monkeypatch):
    """It warns once and makes no key; pages of others, and names that are not its own, are refused.

    A reload does not change it.
    """
    monkeypatch.setenv("AUTH_ENABLED", "false")
    with serving(terminal) as server:
        assert server.log.count("AUTH_ENABLED=false: AUTHENTICATION IS OFF") == 1
        assert server.value("API key") == "none is needed (auth_mode is none)"
        assert not (terminal.data / "api_key").exists()
        assert ask(f"{server.url}/v1/users")[0] == 200
        assert ask(f"{server.url}/v1/models", Host="rebound.example")[0] == 403
        (terminal.home / "mataserver.yaml").write_text("auth_mode: api_key")
        server.process.send_signal(signal.SIGHUP)
        said(server, "restart the server to change auth_mode")
        assert ask(f"{server.url}/v1/users")[0] == 200


def test_in_dotenv(terminal):
    """There it is ignored, and the log says so."""
    (terminal.home / ".env").write_text("AUTH_ENABLED=false")
    with serving(terminal) as server:
        assert ".env: AUTH_ENABLED is ignored" in server.log
        assert ask(f"{server.url}/v1/users")[0] == 401


REFUSED = [
    ({"AUTH_ENABLED": "0", "MATA_SERVER_HOST": "0.0.0.0"}, "since host is 0.0.0.0;"),
    ({**OFF, "MATA_SERVER_AUTH_MODE": "api_key"}, "since auth_mode is api_key;"),
    ({**OFF, "MATA_SERVER_TRUST_PROXY": "true"}, "since trust_proxy is true;"),
    ({**OFF, "MATA_SERVER_ALLOWED_HOSTS": "cv.example"}, "since allowed_hosts has cv.example;"),
    ({**OFF, "MATA_SERVER_API_KEY": "secret"}, "since api_key is set;"),
    ({"AUTH_ENABLED": "yes", "MATA_SERVER_AUTH_MODE": "none"}, "auth_mode is none, which"),
    ({"AUTH_ENABLED": "maybe"}, "must be true or false"),
]


@pytest.mark.parametrize(("environ", "told"), REFUSED)
def test_a_server_that_must_ask(terminal, monkeypatch, environ, told):
    """It does not start, and says why, as ``mataserver check`` does."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = terminal.finish("serve", "--port", "0")
    (line,) = [line for line in done.stderr.splitlines() if "AUTH_ENABLED" in line]
    assert done.returncode == 1
    assert told in line
    assert "secret" not in line
    checked = terminal.finish("check")
    assert checked.returncode == 1
    assert f"error: {line[line.index('environment: ') :]}" in checked.stdout.splitlines()


@pytest.mark.parametrize(
    ("environ", "dotenv", "told"),
    [
        (OFF, "", ["warning: AUTH_ENABLED=false: AUTHENTICATION IS OFF, everybody is answered"]),
        ({}, "AUTH_ENABLED=false", ["warning: .env: AUTH_ENABLED is ignored"]),
        ({"AUTH_ENABLED": "True"}, "", []),
    ],
)
def test_a_check_tells_what_a_start_warns_of(terminal, monkeypatch, environ, dotenv, told):
    """``mataserver check`` warns where a server with accounts does, and is no error."""
    (terminal.home / ".env").write_text(dotenv)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = terminal.finish("check")
    found = [line for line in done.stdout.splitlines() if "AUTH_ENABLED" in line]
    assert (done.returncode, len(found)) == (0, len(told)), done.stdout
    for line, beginning in zip(found, told, strict=True):
        assert line.startswith(beginning)

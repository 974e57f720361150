"""``mataserver serve`` as a real process, and ``load`` and ``stop`` against it."""

from __future__ import annotations

import json
import re
import signal
import stat
import urllib.error
import urllib.request

import pytest

from cli_terminal import Terminal, all_gone, said, serving
from conftest import register
from mataserver import __version__, testing
from mataserver.cli.serving import announcement


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    return Terminal(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server on a fresh data directory, with the installed plugins; one for the module."""
    with pytest.MonkeyPatch.context() as patch:
        terminal = Terminal(tmp_path_factory.mktemp("serve"), patch)
        with serving(terminal) as server:
            yield terminal, server


@pytest.fixture
def server(running, terminal, monkeypatch):
    """The running server, whose data directory is this terminal's."""
    monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(running[0].data))
    return running[1]


def health(url):
    """Ask a server for its health."""
    with urllib.request.urlopen(f"{url}/v1/health", timeout=30) as answer:
        return json.load(answer)


# serve


def signing_in(url, code):
    """Return the request of a page that spends the code of a link."""
    body, headers = json.dumps({"code": code}).encode(), {"Content-Type": "application/json"}
    return urllib.request.Request(f"{url}/v1/session", body, headers)


def test_first_start(running):
    """The first start makes a key for its owner only, and prints it once with a URL to open."""
    terminal, server = running
    file = terminal.data / "api_key"
    key = file.read_text().strip()
    assert server.said[0] == (
        f"mataserver {__version__} listens on {server.url} (API documentation at /docs)"
    )
    assert server.value("API key") == f"{key} (made now, shown this once; kept in {file})"
    code = re.fullmatch(
        rf"{server.url}/#code=([\w-]{{43}}) \(once, within ten minutes\)", server.value("open")
    )
    assert code is not None
    with urllib.request.urlopen(signing_in(server.url, code[1])) as answer:
        assert json.load(answer)["scopes"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(signing_in(server.url, code[1]))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in server.log


def test_start_tells_what_it_has(running):
    """It prints its plugins with their versions, and where its models are."""
    terminal, server = running
    assert "opencv 0.1.0" in server.value("plugins").split(", ")
    assert server.value("models") == (
        f"3 registered in {terminal.data}; hub cache {terminal.home}/hf/hub"
    )


async def test_a_start_without_plugins_says_what_models_need(tmp_path):
    """Who installed the core alone has a server that serves nothing."""
    async with testing.serving(tmp_path, entry_points=[]) as served:
        said = announcement(served.url, served.composed, "")
    (plugins,) = (line for line in said if line.startswith("  plugins: "))
    assert plugins.startswith("  plugins: none; models need one: mataserver-opencv, ")


def test_health(server):
    """The server answers at the URL that it prints."""
    assert health(server.url)["version"] == __version__


def test_port_in_use(server, terminal):
    """A port that is taken is one line on stderr and exit code 1."""
    port = server.url.rpartition(":")[2]
    ran = terminal.finish("serve", "--port", port)
    assert (ran.returncode, ran.stdout) == (1, "")
    said = f"cannot listen on 127.0.0.1:{port}: the port is in use; choose another with --port"
    assert ran.stderr == f"error: {said}\n"


def test_bad_configuration(terminal):
    """A configuration that cannot be used is one line on stderr and exit code 1."""
    ran = terminal.finish("serve", "--config", "gone.yaml")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: configuration: no such file: gone.yaml\n"


def test_second_start_and_sigterm(terminal):
    """A stored key is not printed again; on SIGTERM the server and its workers end with 0."""
    terminal.data.mkdir()
    (terminal.data / "api_key").write_text("mata_kept\n")
    with serving(terminal) as server:
        assert server.value("API key") == f"in {terminal.data}/api_key"
        assert not any("mata_kept" in line for line in server.said)
        assert terminal.run("load", "opencv-qr", "--url", server.url).exit_code == 0
        family = server.family()
        assert family
        assert server.end(signal.SIGTERM) == 0
        assert all_gone(family)


def test_settings_and_sigint(terminal, monkeypatch):
    """Keys are not printed; a plugin is marked as broken, or as off; SIGINT ends it with 0."""
    terminal.install("wreck", "raise RuntimeError('no\\nway')", mataserver={"wreck": "wreck"})
    terminal.install("spare", "raise RuntimeError", mataserver={"spare": "spare"})
    (terminal.home / "mataserver.yaml").write_text("plugins: {disabled: [spare]}\n")
    monkeypatch.setenv("MATA_SERVER_API_KEYS", "first,second")
    with serving(terminal) as server:
        assert server.value("API key") == "from the settings (2)"
        assert "wreck 1.0 (BROKEN: RuntimeError: no way (wreck.py, line 1))" in server.value(
            "plugins"
        )
        assert "spare 1.0 (off)" in server.value("plugins")
        assert server.value("open") is None
        assert not (terminal.data / "api_key").exists()
        assert server.end(signal.SIGINT) == 0
        assert "wreck is not in use" in server.log


def test_open_to_everybody(terminal, monkeypatch):
    """Without authentication on every interface the log warns, and the announcement says so."""
    monkeypatch.setenv("MATA_SERVER_AUTH_MODE", "none")
    with serving(terminal, "--host", "0.0.0.0") as server:
        assert "AUTHENTICATION IS OFF" in server.log
        assert server.value("API key") == "none is needed (auth_mode is none)"
        port = server.url.rpartition(":")[2]
        assert health(f"http://127.0.0.1:{port}")["status"] == "ok"
        monkeypatch.setenv("MATA_SERVER_HOST", "0.0.0.0")
        monkeypatch.setenv("MATA_SERVER_PORT", port)
        assert terminal.run("stop", "opencv-qr").exit_code == 0


def test_open_to_this_machine(terminal, monkeypatch):
    """Without authentication on the loopback there is nothing to warn of."""
    monkeypatch.setenv("MATA_SERVER_AUTH_MODE", "none")
    with serving(terminal) as server:
        assert "AUTHENTICATION" not in server.log


def test_without_uvloop(terminal):
    """Where uvloop is not installed, asyncio's own loop serves."""
    (terminal.site / "uvloop.py").write_text("raise ImportError")
    with serving(terminal) as server:
        assert health(server.url)["status"] == "ok"
        assert server.end() == 0


def test_a_server_that_cannot_start_says_why(terminal):
    """A data directory that cannot be made is one line on stderr and exit code 1."""
    terminal.data.write_text("a file")
    ran = terminal.finish("serve", "--port", "0")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"error: could not store the API key: File exists ({terminal.data}/api_key; "
        "the setting data_dir, MATA_SERVER_DATA_DIR, or shared_dir where it is set, "
        "names the directory)\n"
    )


def test_defaults_come_beside_what_was_pulled(terminal):
    """After a pull the first start still registers the defaults; one that is removed stays away."""
    register(terminal.data, {"opencv-qr": "detect"})
    with serving(terminal):
        assert "rapidocr" in terminal.run("list").stdout
        assert terminal.run("rm", "rapidocr").exit_code == 0
    with serving(terminal):
        listed = terminal.run("list").stdout
    assert ("rapidocr" in listed, "opencv-faces" in listed) == (False, True)


def test_a_default_is_removed_before_the_first_start(terminal):
    """A default that was registered by hand and removed is not registered by the next start."""
    register(terminal.data, {"rapidocr": "ocr"})
    assert terminal.run("rm", "rapidocr").exit_code == 0
    with serving(terminal):
        assert "rapidocr" not in terminal.run("list").stdout


# load and stop


def test_load_and_stop(server, terminal):
    """A model is loaded and unloaded with the stored key; stopping it again is no failure."""
    options = ("opencv-qr", "--url", server.url)
    loaded = terminal.run("load", *options)
    assert (loaded.exit_code, loaded.output) == (0, "Model 'opencv-qr' loaded into memory.\n")
    stopped = terminal.run("stop", *options)
    assert stopped.exit_code == 0
    assert stopped.output == "Model 'opencv-qr' unloaded from memory.\n"
    again = terminal.run("stop", *options)
    assert again.exit_code == 0
    assert again.output == "Model 'opencv-qr' was not loaded (nothing to stop).\n"


def test_address_from_the_settings(server, terminal, monkeypatch):
    """Without ``--url`` the settings' host and port are asked; ``warmup`` is ``load``."""
    monkeypatch.setenv("MATA_SERVER_PORT", server.url.rpartition(":")[2])
    assert terminal.run("warmup", "opencv-qr").exit_code == 0
    monkeypatch.setenv("MATA_SERVER_HOST", "0.0.0.0")
    assert terminal.run("stop", "opencv-qr").exit_code == 0


@pytest.mark.parametrize("command", ["load", "stop"])
def test_http_errors(server, terminal, command):
    """What the server answers is the reason: an unknown model, or one that is misspelt."""
    unknown = terminal.run(command, "org/none", "--url", server.url)
    assert (unknown.exit_code, unknown.output) == (1, "error: Model not found: org/none\n")
    meant = terminal.run(command, "opencv-qw", "--url", server.url)
    assert meant.output == "error: Model not found: opencv-qw; did you mean opencv-qr?\n"


@pytest.mark.parametrize("command", ["load", "stop"])
def test_a_refused_key_is_told_with_its_place(server, running, terminal, command, monkeypatch):
    """A wrong key, or none, is told with where it came from and where the right one is."""
    kept = f"a server keeps the key that it made in {running[0].data}/api_key)\n"
    ask = (command, "opencv-qr", "--url", server.url)
    wrong = terminal.run(*ask, "--api-key", "wrong")
    assert (wrong.exit_code, wrong.output) == (
        1,
        f"error: Invalid API key (the key is that of --api-key; {kept}",
    )
    monkeypatch.setenv("MATA_SERVER_API_KEY", "also-wrong")
    said = "the key is that of MATA_SERVER_API_KEY, api_key or api_keys"
    assert terminal.run(*ask).output == f"error: Invalid API key ({said}; {kept}"
    monkeypatch.delenv("MATA_SERVER_API_KEY")
    monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(terminal.data))
    elsewhere = terminal.run(*ask).output
    assert elsewhere.startswith("error: Missing Authorization header (no key was found: set ")
    terminal.data.mkdir()
    (terminal.data / "api_key").write_text("mata_other\n")
    said = f"(the key is that of {terminal.data}/api_key; this server has others: give --api-key)\n"
    assert terminal.run(*ask).output.endswith(said)


def test_key_of_the_option_wins(server, running, terminal, monkeypatch):
    """``--api-key`` is used before ``MATA_SERVER_API_KEY``."""
    monkeypatch.setenv("MATA_SERVER_API_KEY", "wrong")
    key = (running[0].data / "api_key").read_text().strip()
    result = terminal.run("stop", "opencv-qr", "--url", server.url, "--api-key", key)
    assert result.exit_code == 0


@pytest.mark.parametrize("command", ["load", "stop"])
def test_no_server(terminal, command):
    """Without a server the message says where it was looked for and how to start one."""
    result = terminal.run(command, "opencv-qr", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: cannot reach the server at http://127.0.0.1:1; is it running? (mataserver serve)\n"
    )


def test_a_user_in_the_url(server, terminal):
    """It is sent in place of the stored key; the password is not shown."""
    where = server.url.removeprefix("http://")
    result = terminal.run("ps", "--url", f"http://ada:pa55@{where}")
    assert result.exit_code == 1
    assert "the user and password of --url were sent, so no key" in result.stderr
    result = terminal.run("ps", "--url", "http://ada:pa55@127.0.0.1:1")
    assert "the server at http://127.0.0.1:1; is it running?" in result.stderr
    result = terminal.run("ps", "--url", f"http://ada:pa55@{where}", "--api-key", "k")
    assert (result.exit_code, "leave one out" in result.stderr) == (2, True)
    assert terminal.run("ps", "--url", "http://[::1").exit_code == 2


def test_a_server_that_speaks_no_tls(server, terminal):
    """It runs: the message says what is wrong with the address."""
    where = server.url.removeprefix("http://")
    result = terminal.run("ps", "--url", f"https://{where}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {where} does not speak TLS: is its address http://?\n"


TAKES_SIGNALS = """
import signal
from mataserver import hookimpl

TAKEN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

def take():
    for number in TAKEN:
        signal.signal(number, signal.SIG_IGN)

class Service:
    def routes(self):
        return []

    async def __aenter__(self):
        {0}

    async def __aexit__(self, *exc):
        pass

@hookimpl
def service(ctx):
    return Service()

{1}
"""


@pytest.mark.parametrize("places", [("pass", "take()"), ("take()", "")], ids=["import", "start"])
def test_a_plugin_that_takes_the_signals(terminal, places):
    """Some libraries handle or ignore them when they are imported: the server still ends."""
    points = {"taker": "taker"}
    terminal.install("taker", TAKES_SIGNALS.format(*places), mataserver=points)
    with serving(terminal) as server:
        assert "taker 1.0" in server.value("plugins")
        server.process.send_signal(signal.SIGHUP)
        said(server, "the configuration was read again")
        assert server.end() == 0


BEARS_CHILDREN = """
from mataserver import hookimpl

class Service:
    def __init__(self, ctx):
        self._ctx = ctx

    def routes(self):
        return []

    async def __aenter__(self):
        self._ctx.tasks.spawn(self._run(), "run children")

    async def __aexit__(self, *exc):
        pass

    async def _run(self):
        await self._ctx.address()
        for _ in range(3):
            async with self._ctx.run_process("this") as child:
                await child.wait()
        self._ctx.log.warning("three have ended")

@hookimpl
def service(ctx):
    return Service(ctx)
"""


def test_children_beside_grpc(terminal, monkeypatch):
    """With a port for gRPC, the start of a child is no line of gRPC's in the log."""
    monkeypatch.setenv("MATA_SERVER_GRPC_PORT", "0")
    terminal.install("parent", BEARS_CHILDREN, mataserver={"parent": "parent"})
    with serving(terminal) as server:
        said(server, "three have ended")
        assert server.end() == 0
    assert "gRPC on" in server.log
    assert "fork" not in server.log

"""``mataserver pull`` from the command line: hub models, pip backends and local files."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from importlib.metadata import entry_points

import pytest

from cli_terminal import Terminal
from hub_stand_in import HubStandIn, Repo
from mataserver.cli.pulling import DownloadBar
from mataserver.sources.messages import Progress

FAKE = {"fake": "mataserver.testing:fake"}
WEIGHTS = bytes(range(256)) * 8_192
TASKS = ["classify", "depth", "detect", "ocr", "pose", "segment", "track", "vlm"]
GEAR = """
from mataserver import Backend, hookimpl

def load(spec, ctx):
    raise NotImplementedError

@hookimpl
def backends():
    yield Backend(
        name="gear", task="ocr", source="pip", load=load, system_binary="a-binary-that-nobody-has"
    )
    yield Backend(
        name="gear-file",
        task="detect",
        source="local",
        load=load,
        accepts=lambda files: files.path.suffix == ".gear",
    )
"""


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    terminal = Terminal(tmp_path, monkeypatch)
    terminal.install("fake-dist", mataserver=FAKE)
    return terminal


@pytest.fixture
def hub(terminal, monkeypatch):
    """The hub, with one model that the fake plugin serves for detect and track."""
    with HubStandIn() as hub:
        for name, value in hub.environment(terminal.home / "hf").items():
            monkeypatch.setenv(name, value)
        hub.repos["org/fake"] = Repo(
            {"config.json": b'{"model_type": "fake"}', "model.safetensors": WEIGHTS}
        )
        yield hub


def models(terminal):
    """Return the registry's models: name to task and source."""
    file = terminal.data / "model_registry.json"
    entries = json.loads(file.read_text())["models"] if file.exists() else {}
    return {name: (entry["task"], entry["source"]) for name, entry in entries.items()}


def test_tasks_are_offered(terminal):
    """``--task`` takes the eight tasks and names them when it is missing."""
    said = terminal.run("pull", "org/fake").stderr
    assert all(task in said for task in TASKS)


def test_hub_model(terminal, hub):
    """A hub model is downloaded and registered; one line says so, and no bar without a terminal."""
    result = terminal.run("pull", "org/fake", "--task=detect")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "Pulled org/fake (detect)\n"
    assert models(terminal) == {"org/fake": ("detect", "hf")}
    assert terminal.run("list").output.splitlines()[2].endswith(" 2.1")


def test_pull_again_for_another_task(terminal, hub):
    """Pulling again is no error; another task replaces the first."""
    terminal.run("pull", "org/fake", "--task", "detect")
    assert terminal.run("pull", "org/fake", "--task", "track").exit_code == 0
    assert models(terminal) == {"org/fake": ("track", "hf")}


@pytest.mark.parametrize(
    ("model", "task", "reason"),
    [
        ("org/none", "detect", "model not found on the hub: org/none"),
        ("org/fake", "depth", "Task mismatch: org/fake (fake) serves detect, track, not depth"),
        ("https://host/org/fake", "detect", "not a model id of the hub: expected org/name, not"),
        ("./nowhere", "detect", "./nowhere: no such file or directory"),
        ("fake-ocr", "vlm", "Task mismatch: fake-ocr serves ocr, not vlm"),
    ],
)
def test_failures(terminal, hub, model, task, reason):
    """What cannot be pulled is one line on stderr, exit code 1, and not registered."""
    result = terminal.run("pull", model, "--task", task)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {reason}")
    assert result.stderr.count("\n") == 1
    assert models(terminal) == {}


def test_a_folder_that_is_no_checkpoint(terminal):
    """The wrong folder is told by what it lacks, not by a type that it does not state."""
    (terminal.home / "empty").mkdir()
    result = terminal.run("pull", "./empty", "--task", "detect")
    assert result.exit_code == 1
    assert "no config.json that names a model_type" in result.stderr
    assert "unknown" not in result.stderr


def test_a_failure_is_text_also_where_the_server_logs_json(terminal, monkeypatch):
    """``log_format`` is that of the server: a command says the same with either."""
    monkeypatch.setenv("MATA_SERVER_LOG_FORMAT", "json")
    ran = terminal.finish("pull", "opencv-qr", "--task", "vlm")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: Task mismatch: opencv-qr serves detect, not vlm\n"


@pytest.mark.parametrize(
    ("name", "said"), [("net.weights", ".weights files"), ("net", "files without a suffix")]
)
def test_a_file_that_no_plugin_serves(terminal, name, said):
    """The plugin for its kind is missing, or it is none of a checkpoint: its suffix says which."""
    (terminal.home / name).write_bytes(b"weights")
    result = terminal.run("pull", f"./{name}", "--task", "detect")
    said = f"error: ./{name}: No installed plugin serves {said} for the task detect\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_hub_unreachable(terminal, monkeypatch):
    """Without a hub the pull fails with the reason."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = terminal.run("pull", "org/fake", "--task", "detect")
    assert result.exit_code == 1
    assert result.stderr == "error: cannot reach the hub: HF_HUB_OFFLINE is set\n"


def test_hub_unreachable_and_nothing_for_its_models(terminal, monkeypatch):
    """With the network back the pull would fail all the same: that is told as well."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    everyone = ", ".join(point.name for point in entry_points(group="mataserver"))
    (terminal.home / "config.yaml").write_text(f"plugins: {{disabled: [{everyone}]}}")
    result = terminal.run("pull", "org/fake", "--task", "embed", "--config", "config.yaml")
    assert result.stderr == (
        "error: cannot reach the hub: HF_HUB_OFFLINE is set; "
        "no installed plugin serves models of the hub for the task embed\n"
    )


def test_pip_backend(terminal):
    """A pip backend whose packages are here is registered."""
    result = terminal.run("pull", "fake-ocr", "--task", "ocr")
    assert (result.exit_code, result.output) == (0, "Pulled fake-ocr (ocr)\n")
    assert models(terminal) == {"fake-ocr": ("ocr", "pip")}


def test_pip_failure(terminal, monkeypatch):
    """A package that pip cannot install is one line on stderr and exit code 1."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    result = terminal.run("pull", "fake-absent", "--task", "detect")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: pip could not install a-package-that-nobody-has: ")
    assert result.stderr.count("\n") == 1


def test_missing_binary_is_a_warning(terminal):
    """A backend whose system binary is missing is registered, with a warning on stderr."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    result = terminal.run("pull", "gear", "--task", "ocr")
    assert (result.exit_code, result.stdout) == (0, "Pulled gear (ocr)\n")
    assert result.stderr == (
        "warning: gear needs the system binary a-binary-that-nobody-has: not found\n"
    )


def test_broken_plugin_is_a_warning(terminal):
    """A broken plugin does not keep another's model from being pulled."""
    terminal.install("wreck", "raise RuntimeError('no\\nway')", mataserver={"wreck": "wreck"})
    result = terminal.run("pull", "fake-ocr", "--task", "ocr")
    assert (result.exit_code, result.stdout) == (0, "Pulled fake-ocr (ocr)\n")
    assert (
        result.stderr
        == "warning: the plugin wreck is not in use: RuntimeError: no way (wreck.py, line 1)\n"
    )


@pytest.mark.parametrize("path", ["./shelf/net.gear", "{home}/shelf/net.gear", "~/shelf/net.gear"])
def test_local_file(terminal, monkeypatch, path):
    """A path is registered where it is, under its last component."""
    monkeypatch.setenv("HOME", str(terminal.home))
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    (terminal.home / "shelf").mkdir()
    (terminal.home / "shelf" / "net.gear").write_bytes(b"x")
    result = terminal.run("pull", path.format(home=terminal.home), "--task", "detect")
    assert (result.exit_code, result.output) == (0, "Registered net.gear (detect)\n")
    assert models(terminal) == {"net.gear": ("detect", "local")}


def test_local_directory_with_a_name(terminal):
    """A directory that looks like a hub model is served as one, under the name of ``--name``."""
    (terminal.home / "shelf").mkdir()
    (terminal.home / "shelf" / "config.json").write_text('{"model_type": "fake"}')
    result = terminal.run("pull", "./shelf", "--task", "track", "--name", "people")
    assert (result.exit_code, result.output) == (0, "Registered people (track)\n")
    assert models(terminal) == {"people": ("track", "local")}


def test_local_name_in_use(terminal):
    """A name that is in use is refused, with what to do."""
    terminal.run("pull", "fake-ocr", "--task", "ocr")
    (terminal.home / "fake-ocr").mkdir()
    (terminal.home / "fake-ocr" / "config.json").write_text('{"model_type": "fake"}')
    result = terminal.run("pull", "./fake-ocr", "--task", "detect")
    assert result.exit_code == 1
    assert "'fake-ocr' is in use: choose another with --name" in result.stderr
    assert models(terminal) == {"fake-ocr": ("ocr", "pip")}


def test_a_file_needs_no_mark(terminal):
    """The name of a file in the working directory is a path; that of a directory is not."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    (terminal.home / "net.gear").write_bytes(b"x")
    assert terminal.run("pull", "net.gear", "--task", "detect").exit_code == 0
    (terminal.home / "fake-ocr").mkdir()
    assert terminal.run("pull", "fake-ocr", "--task", "ocr").stdout == "Pulled fake-ocr (ocr)\n"


def test_bar_on_a_terminal(terminal, hub):
    """On a terminal a bar shows how much of the model has arrived."""
    master, slave = os.openpty()
    pulling = terminal.start("pull", "org/fake", "--task", "detect", stderr=slave)
    os.close(slave)
    said, _ = pulling.communicate(timeout=60)
    drawn = os.read(master, 65_536).decode()
    os.close(master)
    assert (pulling.returncode, said) == (0, "Pulled org/fake (detect)\n")
    assert "org/fake" in drawn
    assert "100%" in drawn
    assert "2.1/2.1 MB" in drawn


def test_interrupt(terminal, hub):
    """Ctrl-C ends a pull quietly with 130; what has arrived is kept, nothing is registered."""
    hub.repos["org/fake"].hold_at = 1_000_000
    pulling = terminal.start("pull", "org/fake", "--task", "detect")
    assert hub.holding.wait(30)
    os.killpg(pulling.pid, signal.SIGINT)
    assert pulling.communicate(timeout=30) == ("", "")
    assert pulling.returncode == 130
    assert models(terminal) == {}
    assert hub.dropped.wait(30)


def test_the_bar_follows_a_total_that_comes_late(monkeypatch):
    """A source that tells no total at first, or never, still shows how much has arrived."""

    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with DownloadBar("share:a") as bar:
        for done, total in ((0, 0), (1_000_000, 0), (1_000_000, 4_000_000), (2_000_000, 4_000_000)):
            bar.show(Progress(done_bytes=done, total_bytes=total, done_files=0, total_files=0))
            bar._bar.render_progress()
    shown = screen.getvalue()
    assert "1.0 MB" in shown
    assert " 25%  1.0/4.0 MB" in re.sub(r"00:\d\d:\d\d  ", "", shown)
    assert "2.0/4.0 MB" in shown

"""``mataserver check``: what it says of a configuration and of the data directory."""

from __future__ import annotations

import json

import pytest

from cli_checks import ABSENT, GEAR, WRECK, configure, errors, terminal
from conftest import register
from mataserver.processes import landlock

__all__ = ["terminal"]


SHARE = """
from mataserver import SourceSpec, hookimpl

def fetch(ctx):
    raise NotImplementedError

@hookimpl
def sources():
    yield SourceSpec(name="share", fetch=fetch, requires=("no_such_module",),
                     packages=("no-such>=1",))
"""

TASKS = "one of classify, depth, detect, embed, ocr, pose, segment, track, vlm"


@pytest.mark.parametrize(("limit", "warned"), [(1_048_576, True), (64, False), (0, False)])
def test_requests_that_may_fill_the_memory(terminal, limit, warned):
    """The limit of all bodies together is compared with the memory that there is."""
    (terminal.home / "mataserver.yaml").write_text(f"max_inflight_mb: {limit}\n")
    told = terminal.run("check").stdout
    said = f"warning: max_inflight_mb: requests may hold {limit} MB in memory, and there are "
    assert (said in told) is warned


@pytest.mark.parametrize("option", [True, False])
def test_the_file_is_named(terminal, monkeypatch, option):
    """The first line says what is checked: the file as it was named, in whatever way, or none."""
    (terminal.home / "edge.yaml").write_text("port: 9000")
    if not option:
        monkeypatch.setenv("MATA_SERVER_CONFIG", "edge.yaml")
    arguments = ("--config", "edge.yaml") if option else ()
    assert terminal.run("check", *arguments).stdout.startswith("checking edge.yaml\n")


def test_the_default_file_is_named(terminal):
    """Without a name it is ./mataserver.yaml, where there is one."""
    nothing = "checking the defaults and the environment: no configuration file\n"
    assert terminal.run("check").stdout.startswith(nothing)
    (terminal.home / "mataserver.yaml").write_text("port: 9000")
    assert terminal.run("check").stdout.startswith("checking mataserver.yaml\n")


def test_a_file_that_is_missing_is_named(terminal):
    """A named file that is not there is what is checked, and the fault."""
    said = terminal.run("check", "--config", "lost.yaml").stdout.splitlines()
    assert said[:2] == ["checking lost.yaml", "error: configuration: no such file: lost.yaml"]


def test_yaml_that_is_none_is_told_with_its_line(terminal):
    """What the parser says names the line, and nothing of how the file was handed to it."""
    (_, said, _) = configure(terminal, "models:\n  - {model: org/a\n")[1]
    assert "at line 2, column 5" in said
    assert "string" not in said


def test_variables_that_are_no_setting(terminal, monkeypatch):
    """One that is like a setting's is a warning, as is one of what YAML alone sets; others pass."""
    monkeypatch.setenv("MATA_SERVER_PROT", "9000")
    monkeypatch.setenv("MATA_SERVER_MODELS", "opencv-qr")
    monkeypatch.setenv("MATA_SERVER_URL", "http://localhost:8110")
    monkeypatch.setenv("MATA_SERVER_PORT", "9001")
    code, lines = configure(terminal, "")
    assert code == 0
    assert [line for line in lines if "environment" in line] == [
        "warning: environment: MATA_SERVER_MODELS is ignored: it is set in YAML only",
        "warning: environment: MATA_SERVER_PROT is not a setting; did you mean MATA_SERVER_PORT?",
    ]


def test_what_confines_models_is_told(terminal):
    """It names what this kernel keeps from models, and the backends that state to need more."""
    open_handed = GEAR.replace('task="ocr"', 'task="ocr", confined=False')
    terminal.install("gear-dist", open_handed, mataserver={"gear": "gear_dist"})
    _, lines = configure(terminal, "port: 9000")
    files = f"files (Landlock {landlock.abi_version()})" if landlock.abi_version() else "no files"
    told, opted_out = [line for line in lines if "confined" in line]
    assert told.startswith(f"note: models are confined: {files}")
    assert opted_out == "note: the backend gear is not confined: it needs more"
    _, lines = configure(terminal, "confine_models: false")
    assert "note: models are not confined: confine_models is false" in lines


def test_good_configuration(terminal):
    """A configuration without a fault passes, and nothing is registered by looking at it."""
    text = """
        port: 9000
        plugins: {fake: {load_seconds: 1.5}}
        models:
          - {model: fake-detect, task: detect, params: {confidence: 0.4}}
    """
    code, lines = configure(terminal, text)
    assert code == 0
    assert errors(lines) == []
    assert not terminal.data.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prot: 1", "configuration: prot: unknown key; did you mean port?"),
        (
            "log_level: INFO",
            (
                "configuration: log_level: invalid enum value 'INFO': "
                "one of debug, error, info, warning"
            ),
        ),
        (
            "models: [{model: fake-ocr, taks: ocr}]",
            "configuration: models[0].taks: unknown key; did you mean task?",
        ),
        (
            "plugins: {fale: {}}",
            "configuration: plugins.fale: no such plugin is installed; did you mean fake?",
        ),
        (
            "plugins: {fake: {load_second: 1}}",
            "configuration: plugins.fake.load_second: unknown key; did you mean load_seconds?",
        ),
        (
            "models: [{model: fake-ocr, task: text}]",
            f"configuration: models[0].task: unknown task 'text': {TASKS}",
        ),
        (
            "models: [{model: fake-detect, task: detection}]",
            (
                "configuration: models[0].task: unknown task 'detection': "
                f"{TASKS}; did you mean detect?"
            ),
        ),
        (
            (
                "plugins: {cameras: {cameras: "
                "[{name: a, source: /dev/video0, model: fake-detect, task: tracking}]}}"
            ),
            (f"cameras[0] a: task: unknown task 'tracking': {TASKS}; did you mean track?"),
        ),
        (
            "models: [{model: fake-detect, task: ocr}]",
            "models[0] fake-detect: task: it serves detect, not ocr",
        ),
        (
            "models: [{model: fake-detct, task: detect}]",
            (
                "models[0] fake-detct: fake-detct is not here: "
                "mataserver pull fake-detct --task detect; did you mean fake-detect?"
            ),
        ),
        (
            "outbound_hosts: [10.0.0.0/8, 10.0.0.0/99]",
            "configuration: outbound_hosts[1]: not a network",
        ),
        ("keep_alive: long", "configuration: keep_alive: expected `float`, got `str`"),
        ("models: [{task: ocr}]", "configuration: models[0].model: field is required"),
        ("plugins: {none: {}}", "configuration: plugins.none: no such plugin is installed"),
        ("plugins: {strict: 1}", "configuration: plugins.strict: expected `bool`"),
        ("plugins: {disabled: fake}", "configuration: plugins.disabled: expected a list of names"),
        (
            "plugins: {disabled: [fale]}",
            ("configuration: plugins.disabled: no plugin 'fale' is installed; did you mean fake?"),
        ),
        ("frontend_address: http://a:1", "configuration: frontend_address: needs shared_dir"),
        (
            "{shared_dir: shared, host: 0.0.0.0}",
            (
                "configuration: frontend_address: needed with shared_dir, "
                "where host names no address that others reach"
            ),
        ),
        (
            "plugins: {fake: {speed: 1}}",
            "configuration: plugins.fake.speed: unknown key",
        ),
        (
            "models: [{model: fake-detect}]",
            "models[0] fake-detect: fake-detect is not registered: give its task, or pull it",
        ),
        (
            "models: [{model: org/m, task: detect}]",
            "models[0] org/m: org/m is not here: mataserver pull org/m --task detect",
        ),
        (
            "models: [{model: net, task: detect, path: ./net}]",
            "models[0] net: no such file or directory",
        ),
        (
            "models: [{model: fake-absent, task: detect}]",
            f"models[0] fake-absent: {ABSENT}",
        ),
        (
            "models: [{model: fake-ocr, task: ocr, params: {threshold: 1}}]",
            "models[0] fake-ocr: params.threshold: unknown parameter; use 'confidence'",
        ),
        (
            "models: [{model: fake-ocr, task: ocr, params: {confidence: 2.0}}]",
            "models[0] fake-ocr: params.confidence: expected `float` <= 1.0",
        ),
    ],
)
def test_faults(terminal, text, reason):
    """Every fault of a configuration is a line that names its place, and exit code 1."""
    code, lines = configure(terminal, text)
    assert code == 1
    assert errors(lines) == [reason]
    assert lines[-1].startswith("1 error, ")


def test_a_wrong_setting_of_a_plugin_is_one_fault(terminal):
    """The models of a plugin whose settings are wrong are no faults of their own."""
    register(terminal.data, {"fake-ocr": "ocr"})
    text = "plugins: {fake: {speed: 1}}\nmodels: [{model: fake-detect, task: detect}]"
    code, lines = configure(terminal, text)
    assert (code, errors(lines)) == (1, ["configuration: plugins.fake.speed: unknown key"])
    assert not any("No installed plugin" in line for line in lines)


def test_every_fault_is_listed(terminal):
    """The first fault does not hide the others: of two plugins and of two models."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    terminal.install("wreck", WRECK, mataserver={"wreck": "wreck"})
    text = """
        plugins: {fake: {load_fails: maybe}, gear: {tooth: 1}}
        models: [{model: org/a, task: detect}, {model: org/b, task: ocr}]
    """
    code, lines = configure(terminal, text)
    assert code == 1
    assert errors(lines) == [
        "configuration: plugins.fake.load_fails: expected `bool`, got `str`",
        "configuration: plugins.gear.tooth: unknown key",
        "plugin wreck: RuntimeError: no way (wreck.py, line 1)",
        "models[0] org/a: org/a is not here: mataserver pull org/a --task detect",
        "models[1] org/b: org/b is not here: mataserver pull org/b --task ocr",
    ]


def test_warnings_are_no_failure(terminal):
    """What keeps no configured model from being served is a warning, and the exit code is 0.

    A package of a backend is none if no registered model needs it, but a note.
    """
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    terminal.install("taker", mataserver_commands={"rm": "taker:rm"})
    terminal.install("needy-share", SHARE, mataserver={"share": "needy_share"})
    register(terminal.data, {"orphan": "ocr"})
    open_ = "{host: 0.0.0.0, auth_mode: none, cors_origins: ['*']}"
    code, lines = configure(terminal, open_)
    assert code == 0
    assert {
        "warning: auth_mode is none and host is 0.0.0.0: anyone who can reach it may use it",
        (
            "warning: auth_mode is none and cors_origins is *: any web page that a user opens may "
            "use it"
        ),
        "warning: The backend gear needs the system binary a-binary-that-nobody-has: not found",
        "warning: The source share needs no_such_module: pip install 'no-such>=1'",
        "warning: the command rm of taker is refused: the name is taken",
        "warning: registered model orphan: No installed plugin serves orphan for the task ocr",
    } <= set(lines)
    assert f"note: {ABSENT}" in lines
    register(terminal.data, {"fake-absent": "detect"})
    assert f"warning: registered model fake-absent: {ABSENT}" in configure(terminal, open_)[1]
    assert lines[-1].startswith("0 errors, ")


def test_registered_models_need_no_task(terminal):
    """A configured model that is registered is checked as the server would serve it."""
    register(terminal.data, {"fake-detect": "detect"})
    assert configure(terminal, "models: [{model: fake-detect}]")[0] == 0
    other = configure(terminal, "models: [{model: fake-detect, task: ocr}]")[1]
    assert errors(other) == ["models[0] fake-detect: task: it is registered for detect, not ocr"]
    wrong = configure(terminal, "models: [{model: fake-detect, params: {speed: 1}}]")
    assert errors(wrong[1]) == ["models[0] fake-detect: params.speed: unknown parameter"]


def test_corrupt_registry_is_an_error(terminal):
    """A registry that cannot be read is an error, and stays as it is."""
    terminal.data.mkdir()
    file = terminal.data / "model_registry.json"
    file.write_text(json.dumps({"version": 7, "models": {}}))
    code, lines = configure(terminal, "{}")
    assert code == 1
    assert errors(lines)[0].startswith("the model registry is corrupt: version 7 is unknown")
    assert json.loads(file.read_text())["version"] == 7


def test_a_data_directory_that_cannot_be_written_is_an_error(terminal):
    """Nothing can be stored in it: the server's start would fail."""
    code, lines = configure(terminal, "{data_dir: data, shared_dir: /proc/nowhere/shared}")
    assert code == 1
    [told] = errors(lines)
    assert told.startswith(
        "could not write to the directory: No such file or directory (/proc/nowhere/shared;"
    )
    assert not terminal.data.exists()


def test_cameras(terminal):
    """Each camera is tried without connecting to it, and what clients may name is read."""
    register(terminal.data, {"fake-detect": "detect"})
    code, lines = configure(
        terminal,
        "plugins:\n"
        "  cameras:\n"
        "    camera_hosts: [10.0.0.0/99]\n"
        "    cameras:\n"
        "      - {name: door, source: 'rtsp://user:secret@10.0.0.7/', model: fake-detect}\n"
        "      - {name: shelf, source: shelf.mp4, model: fake-detect}\n"
        "      - {name: yard, source: /dev/video0, model: nobody}\n",
    )
    assert code == 1
    network, shelf, yard = errors(lines)
    assert network == "plugin cameras: configuration: camera_hosts[0]: not a network"
    assert shelf.startswith("cameras[1] shelf: source: expected rtsp://")
    assert yard == "cameras[2] yard: Model not found: nobody"
    assert "secret" not in "".join(lines)

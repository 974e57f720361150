"""The configurations and plugins that the tests of ``check`` and ``plugins`` have looked at."""

from __future__ import annotations

import pytest

from cli_terminal import Terminal

FAKE = {"fake": "mataserver.testing:fake"}
GEAR = """
import msgspec
from mataserver import Backend, hookimpl

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    teeth: int = 8

def load(spec, ctx):
    raise NotImplementedError

@hookimpl
def settings():
    return Settings

@hookimpl
def backends():
    yield Backend(
        name="gear", task="ocr", source="pip", load=load, system_binary="a-binary-that-nobody-has"
    )
"""

ABSENT = (
    "The backend fake-absent needs a_module_that_nobody_has: "
    "pip install 'a-package-that-nobody-has'"
)

WRECK = "raise RuntimeError('no\\nway')"

ROUTES = """
from mataserver import hookimpl

@hookimpl
def service(ctx):
    raise NotImplementedError
"""


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    terminal = Terminal(tmp_path, monkeypatch)
    terminal.install("fake-dist", mataserver=FAKE)
    return terminal


def configure(terminal, text):
    """Write the configuration and return what ``check`` says of it: exit code and lines."""
    (terminal.home / "edge.yaml").write_text(text)
    result = terminal.run("check", "--config", "edge.yaml")
    assert result.stderr == ""
    return result.exit_code, result.stdout.splitlines()


def errors(lines):
    """Return the errors among what ``check`` says."""
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]

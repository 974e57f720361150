"""The declarations of sources: what is wrong with one, and a real distribution at the terminal."""

from __future__ import annotations

import hashlib
import json

import pytest

from cli_terminal import Terminal
from markdown_pages import blocks, read
from mataserver.config import Settings
from mataserver.plugins import discover
from source_rig import plugin_writer

DECLARED = """
from mataserver import SourceSpec, hookimpl

def fetch(ctx):
    raise NotImplementedError

@hookimpl
def sources():
    return [SourceSpec({given})]
"""
BACKEND = """

from mataserver import Backend, DetectResult

class Blind:
    def predict(self, images, params):
        return [DetectResult(detections=[]) for _ in images]

def load(spec, ctx):
    assert (spec.source, spec.path.name) == ("local", "files"), spec
    return Blind()

@hookimpl
def backends():
    accepts = lambda files: files.model_type == "blind" and files.source == "local"
    return [Backend(name="blind", task="detect", source="local", load=load, accepts=accepts)]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a plugin's module; return its entry point."""
    return plugin_writer(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('name="S3", fetch=fetch', "sources() gave the name 'S3': a source's has small letters,"),
        ('name="", fetch=fetch', "sources() gave the name '': a source's has small letters,"),
        ("name=3, fetch=fetch", "sources() gave the name 3: a source's has small letters,"),
        ('name="hf", fetch=fetch', "source hf: the name is the server's"),
        ('name="local", fetch=fetch', "source local: the name is the server's"),
        ('name="a", fetch=None', "source a: fetch must be a function"),
        ('name="a", fetch=lambda ctx: None', "source a: fetch must stand at the top level of its"),
        ('name="a", fetch=sources', "source a: fetch is called with (ctx), and takes ()"),
        ('name="a", fetch=fetch, pattern="("', "source a: pattern is no regular expression:"),
        ('name="a", fetch=fetch, pattern=3', "source a: pattern is no regular expression:"),
        ('name="a", fetch=fetch, requires="x"', "source a: requires must be a tuple of strings"),
        ('name="a", fetch=fetch, packages=[1]', "source a: packages must be a tuple of strings"),
        ('name="a", fetch=fetch, inherit="X"', "source a: inherit must be a tuple of strings"),
        ('name="a", fetch=fetch, stall_timeout=0', "source a: stall_timeout must be above 0 and"),
        ('name="a", fetch=fetch, stall_timeout="1"', "source a: stall_timeout must be above 0"),
        ('name="a", fetch=fetch, color=1', "TypeError: SourceSpec.__init__() got an unexpected"),
    ],
)  # fmt: skip
def test_a_wrong_source_puts_its_plugin_out_of_use(plugin, given, said):
    """The sentence says what is wrong; nothing of the plugin is used."""
    found = discover(Settings(), [plugin(DECLARED.format(given=given))])
    assert found.found[0].error.startswith(said)
    assert (found.found[0].sources, found.source_names) == ((), [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1", "sources() must return sources, not a int"),
        ("return [1]", "sources() gave a int, not a SourceSpec"),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    ],
)
def test_a_wrong_hook_puts_its_plugin_out_of_use(plugin, body, said):
    """What the hook gives is looked at before anything of it is used."""
    source = f"from mataserver import hookimpl\n@hookimpl\ndef sources():\n    {body}"
    assert discover(Settings(), [plugin(source)]).found[0].error.startswith(said)


def test_a_name_belongs_to_the_first(plugin):
    """A second source of the same name puts its plugin out of use; the first one stays."""
    code = DECLARED.format(given='name="share", fetch=fetch')
    found = discover(Settings(), [plugin(code, "a"), plugin(code, "b")])
    errors = [each.error for each in found.found]
    assert errors == [None, "source share: the plugin a has one of that name"]
    assert found.source("share")[1].name == "a"
    assert found.source("shares") is None


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    """A terminal with docs/plugin-sources.md installed, a backend, and a share of one model."""
    made = Terminal(tmp_path, monkeypatch)
    found = blocks(read("plugin-sources.md"), "python")
    (example,) = (each for each in found if "SourceSpec(" in each)
    made.install("mataserver-share", example + BACKEND, mataserver={"share": "mataserver_share"})
    share = tmp_path / "share"
    model = share / "detectors" / "harbour"
    model.mkdir(parents=True)
    config = json.dumps({"model_type": "blind"}).encode()
    (model / "config.json").write_bytes(config)
    (model / "SHA256SUMS").write_text(f"{hashlib.sha256(config).hexdigest()}  config.json\n")
    (tmp_path / "mataserver.yaml").write_text(f"plugins: {{share: {{folder: {share}}}}}\n")
    return made


HARBOUR = "share:detectors/harbour"


def test_a_distributions_source_at_the_terminal(terminal):
    """Pulled, listed, shown and removed by commands of a process each; found without its share."""
    ran = terminal.finish("pull", HARBOUR, "--task", "detect")
    assert (ran.returncode, ran.stdout) == (0, f"Pulled {HARBOUR} (detect)\n"), ran.stderr
    (listed,) = [
        each
        for each in json.loads(terminal.finish("list", "--json").stdout)
        if each["model"] == HARBOUR
    ]
    assert (listed["source"], listed["size_bytes"]) == ("share", 23)
    assert listed["path"].startswith(str(terminal.data / "pulled" / "share"))
    shown = terminal.finish("show", HARBOUR).stdout
    assert f"  path:          {listed['path']}\n" in shown
    assert "  source:        share\n" in shown
    ran = terminal.finish("rm", HARBOUR)
    assert ran.stdout.endswith(f"Note: {listed['path']} was not deleted.\n")

    (terminal.home / "share").rename(terminal.home / "away")
    ran = terminal.finish("pull", HARBOUR, "--task", "detect")
    assert ran.returncode == 0, ran.stderr
    assert "the source share cannot be reached; using the copy of" in ran.stderr
    ran = terminal.finish("pull", "share:detectors/other", "--task", "detect")
    assert (ran.returncode, ran.stderr) == (1, "error: the share is not mounted\n")


def test_an_unknown_source_at_the_terminal(terminal):
    """The known ones are named, also in the configuration."""
    ran = terminal.finish("pull", "shore:x", "--task", "detect")
    said = "unknown source 'shore': one of share; did you mean share?"
    assert (ran.returncode, ran.stderr) == (1, f"error: {said}\n")
    with (terminal.home / "mataserver.yaml").open("a") as file:
        file.write("models: [{model: 'shore:x', task: detect}]\n")
    ran = terminal.finish("check")
    assert f"models[0] shore:x: {said}" in ran.stdout + ran.stderr


def test_a_broken_plugins_source_is_refused_with_its_reason(terminal):
    """Whose plugin has the source's name says why it cannot be used; others work."""
    place = terminal.site / "mataserver_share.py"
    place.write_text("raise RuntimeError('no luck')")
    ran = terminal.finish("pull", HARBOUR, "--task", "detect")
    assert ran.returncode == 1
    assert "the source share is not in use: RuntimeError: no luck" in ran.stderr

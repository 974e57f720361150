"""The unit for systemd and the Dockerfile: checked by the tools that know them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fresh_environment import ROOT
from image_file import copy_context, stages
from markdown_pages import blocks, read
from mataserver import config

UNIT = ROOT / "packaging" / "mataserver.service"
OURS = [
    each.parent
    for each in (*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("clients/*/pyproject.toml"))
]
PROGRAM = "/opt/mataserver/bin/mataserver"
EXPOSED = 20  # of 100, as systemd-analyze rates; a service that restricts nothing has 96

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here"
)


@pytest.fixture(scope="module")
def service():
    """The unit's section [Service]: each directive's values in order."""
    values: dict[str, list[str]] = {}
    _, _, section = UNIT.read_text().partition("[Service]\n")
    for line in section.partition("\n[")[0].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)
    return values


# docs/edge.md


@pytest.mark.parametrize("block", blocks(read("edge.md"), "yaml"))
def test_the_pages_configurations_are_valid(block, tmp_path):
    """Every configuration of the page of edge boxes is accepted."""
    file = tmp_path / "mataserver.yaml"
    file.write_text(block)
    assert config.load(file, environ={}, directory=tmp_path).models


# systemd


def test_the_unit_has_three_sections():
    """It is read as systemd reads it: sections of directives, one a line."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=")
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]


def test_a_stop_is_the_servers_own(service):
    """The server alone gets the signal, and has the time to drain before it is killed."""
    assert service["KillMode"] == ["mixed"]
    assert float(service["TimeoutStopSec"][0]) > config.Settings().drain_timeout
    assert service["Restart"] == ["on-failure"]
    assert service["OOMPolicy"] == ["continue"]


def test_its_variables_are_settings(service):
    """The variables of ours that it sets exist, and name the folders that systemd makes."""
    words = (value.partition("=") for value in service["Environment"])
    variables = {name: value for name, _, value in words}
    folders = (
        f"/var/lib/{service['StateDirectory'][0]}",
        f"/var/cache/{service['CacheDirectory'][0]}",
    )
    own = {name: value for name, value in variables.items() if name.startswith(config.PREFIX)}
    assert config.load(environ=own, directory=ROOT / "packaging").data_path == Path(folders[0])
    assert all(value.startswith(folders) for value in variables.values())


def test_what_the_server_needs_is_not_taken(service):
    """Cameras, a worker's memory, other processes of its own and compiled code stay allowed."""
    assert service["DevicePolicy"] == ["closed"]
    assert service["DeviceAllow"] == ["char-video4linux rw"]
    assert service["SupplementaryGroups"] == ["video"]
    taken = {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateUsers", "ProcSubset", "LimitNPROC"}
    assert not taken & set(service)
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(service["RestrictAddressFamilies"][0].split())


@needs_systemd
def test_systemd_accepts_the_unit(tmp_path):
    """``systemd-analyze verify`` finds nothing to say, where the program exists."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    ran = analyze("verify", "--man=no", copy)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_it_restricted():
    """``systemd-analyze security`` rates what the service could do as little."""
    ran = analyze("security", "--offline=true", f"--threshold={EXPOSED}", UNIT)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_systemd
def test_the_system_calls_are_allowed(service):
    """The filter allows what makes a worker and its memory, and what confines a model."""
    words = " ".join(service["SystemCallFilter"]).split()
    calls = set().union(*(_calls(word) if word.startswith("@") else {word} for word in words))
    assert {"memfd_create", "fallocate", "clone", "clone3", "prctl", "sched_setaffinity"} <= calls
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= calls
    assert "seccomp" in calls


def analyze(*arguments):
    """Run ``systemd-analyze``."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _calls(group: str) -> set[str]:
    """Return the system calls of a group, with those of the groups in it."""
    lines = analyze("syscall-filter", group).stdout.splitlines()[1:]
    words = [line.strip() for line in lines if not line.strip().startswith("#")]
    inner = [_calls(word) for word in words if word.startswith("@")]
    return set().union(words, *inner)


# the image


@pytest.fixture(scope="module")
def last():
    """The stage that becomes the image."""
    return stages((ROOT / "Dockerfile").read_text())[-1]


def test_the_linter_accepts_the_dockerfile():
    """The linter finds nothing, not even in matters of style."""
    linter = Path(sys.executable).with_name("hadolint")
    command = [
        linter,
        "--disable-ignore-pragma",
        "--failure-threshold",
        "style",
        ROOT / "Dockerfile",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_image_runs_as_nobody_in_particular(last):
    """The user is a number that is not root's, and owns the data directory."""
    user = last.last("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    owner, group = user.split(":")
    folder = last.last("VOLUME")
    assert f"install -d -o {owner} -g {group} -m 0700 {folder}" in last.last("RUN")
    assert f"MATA_SERVER_DATA_DIR={folder}" in last.last("ENV").split()


@pytest.mark.parametrize("place", ["file", ".env", "variable", "alias"])
def test_the_image_asks_for_its_health(last, tmp_path, place):
    """The health check asks the route that needs no key, at the port that the settings say."""
    assert last.last("EXPOSE") == str(config.Settings().port)
    file = tmp_path / "mataserver.yaml"
    _, *rest = last.exec_form("HEALTHCHECK")
    code = rest[-1].replace(last.exec_form("CMD")[-1], str(file))
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file.write_text(f"port: {port}" if place == "file" else "{}")
        (tmp_path / ".env").write_text(f"MATA_SERVER_PORT={port}\n" if place == ".env" else "")
        own = {"variable": "MATA_SERVER_PORT", "alias": "SERVER_PORT"}
        environment = {
            **dict(word.split("=", 1) for word in last.last("ENV").split()),
            "http_proxy": "http://127.0.0.1:9",
            **({own[place]: str(port)} if place in own else {}),
        }

        def is_healthy():
            command = [sys.executable, *rest[:-1], code]
            return subprocess.run(
                command, check=False, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
            )

        assert is_healthy().returncode == 0
        server.shutdown()
    assert is_healthy().returncode != 0
    assert asked == ["/health"]


def test_the_context_is_small(tmp_path):
    """Every file that .dockerignore names exists; what is sent is below 8 MB, 3 of them scripts."""
    copy_context(ROOT, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    names = {path.name for path in tmp_path.iterdir()}
    assert {"mataserver", "plugins", "pyproject.toml", "README.md", "LICENSE"} <= names


# what is published


@pytest.mark.parametrize("folder", OURS, ids=lambda folder: folder.name)
def test_a_distribution_holds_the_licence(folder):
    """Who passes one on must pass on a copy, and a build cannot take it from outside its folder."""
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_sources_hold_nothing_of_other_distributions():
    """A pattern without its slash stands for files of that name in every folder."""
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = built["targets"]["sdist"]["include"]
    assert all(each.startswith("/") and (ROOT / each[1:]).exists() for each in included)


@pytest.mark.parametrize("folder", OURS, ids=lambda folder: folder.name)
def test_releases_with_which_nothing_works_are_not_taken(folder):
    """PyAV's ``open`` takes other arguments now and then: none is taken before it was tried.

    Up to 17.0 a list of permitted containers and an FLV end the process.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    needed = [Requirement(each) for each in project.get("dependencies", [])]
    taken = [each.specifier.filter(["17.0.0", "20.0.0"]) for each in needed if each.name == "av"]
    assert not any(map(list, taken))

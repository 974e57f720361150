"""The Dockerfile's steps without a container engine: each command runs, below a folder of its own.

Run by ``make test-binary``. The folders that the Dockerfile names become folders below a temporary
one, and one virtual environment stands for the Python of both stages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fresh_environment import ROOT
from image_file import copy_context, stages
from mataserver import __version__
from packaged_server import running, variables

if TYPE_CHECKING:
    from image_file import Stage

_FOLDER = re.compile(r"(?<![\w./-])/(?=(?:etc|src|var|wheels)(?:/|\b))")
_MOUNT = re.compile(r"--mount=type=bind,from=\w+,source=([\w/]+),target=([\w/]+)\s+")
# What the image python:3.11-slim-bookworm has, with the packages of Debian that hold it.
LIBRARIES = {
    *("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6"),  # libc6
    *("libmvec.so.1", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1"),  # libc6
    "libgcc_s.so.1",  # libgcc-s1
    "libstdc++.so.6",  # libstdc++6
    "libz.so.1",  # zlib1g
}


@dataclass(frozen=True, slots=True)
class Image:
    """What the steps made below ``folder``, and the last stage."""

    folder: Path
    stage: Stage

    @property
    def programs(self) -> Path:
        """The folder of Python and what pip installed beside it."""
        return self.folder / "python" / "bin"

    def moved(self, text: str) -> str:
        """Return a command whose folders are those below ours."""
        return _FOLDER.sub(f"{self.folder}/", text)

    def run(self, command: str) -> None:
        """Run a RUN instruction; what it mounts is taken from where it comes from."""
        for source, target in _MOUNT.findall(command):
            command = _MOUNT.sub("", command, count=1).replace(f" {target}/", f" {source}/")
        if os.geteuid() != 0:
            command = command.replace("-o 10001 -g 10001", "")  # root alone can give a folder away
        path = f"{self.programs}:{os.environ['PATH']}"
        quick = {"PIP_NO_COMPILE": "1"}  # what is not compiled here is compiled when it is imported
        own = self.settings(stages_of_file()[0])
        environment = {**os.environ, **quick, **own, "PATH": path}
        directory = self.folder / "src"
        subprocess.run(
            ["sh", "-ec", self.moved(command)], check=True, env=environment, cwd=directory
        )

    def settings(self, stage: Stage) -> dict[str, str]:
        """Return the variables that a stage sets."""
        words = " ".join(stage.all("ENV")).split()
        return {name: self.moved(value) for name, _, value in (w.partition("=") for w in words)}


def stages_of_file() -> list[Stage]:
    """Return the stages of our Dockerfile."""
    return stages((ROOT / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The result of every COPY and RUN, in order."""
    first, last = stages_of_file()
    made = Image(tmp_path_factory.mktemp("image"), last)
    for name in ("etc", "src", "var/lib"):
        (made.folder / name).mkdir(parents=True)
    venv.create(made.folder / "python", with_pip=True, symlinks=True)
    copy_context(ROOT, made.folder / "src")
    for command in [*first.all("RUN"), *last.all("RUN")]:
        made.run(command)
    (copied,) = last.all("COPY")
    name, target = copied.split()
    (made.folder / target[1:]).write_bytes((made.folder / "src" / name).read_bytes())
    return made


def test_the_context_holds_no_tests(image):
    """What is sent to the engine is the code of what is installed, and no test of it."""
    source = image.folder / "src"
    assert sorted(path.name for path in (source / "plugins").iterdir()) == [
        *("cameras", "console", "ocr", "oip", "onnx", "openai", "opencv")
    ]
    assert not any(source.rglob("test_*.py"))


def test_ours_are_a_layer_of_their_own(image):
    """The layer of our code is small, so an update of it is."""
    ours = [wheel.name for wheel in (image.folder / "wheels" / "ours").iterdir()]
    assert {name.partition("-")[0] for name in ours} == {
        "mataserver",
        *(
            f"mataserver_{name}"
            for name in ("cameras", "client", "console", "ocr", "oip", "onnx", "openai", "opencv")
        ),
    }
    assert not any((image.folder / "wheels" / "others").glob("mataserver*"))


def test_the_entry_point_serves_the_example(image):
    """ENTRYPOINT and CMD serve config.yaml, the health check passes, and its end is noticed."""
    path = f"{image.programs}:/usr/bin:/bin"
    own = variables(image.folder, path) | image.settings(image.stage)
    own |= {"MATA_SERVER_PORT": "0", "MATA_SERVER_HOST": "127.0.0.1"}
    program, *rest = (*image.stage.exec_form("ENTRYPOINT"), *image.stage.exec_form("CMD"))
    command = [str(image.programs / program), *map(image.moved, rest)]
    with running(command, own, image.folder) as server:
        assert server.health()["version"] == __version__
        port = server.url.rpartition(":")[2]
        assert _healthy(image, port)
        assert "HARBOUR CAFE" in server.read_receipt()
    assert not _healthy(image, port)


def _healthy(image: Image, port: str) -> bool:
    """Run the health check for a server on that port."""
    program, *rest = image.stage.exec_form("HEALTHCHECK")
    environment = {"PATH": str(image.programs), "MATA_SERVER_PORT": port}
    command = [image.programs / program, *map(image.moved, rest)]
    ran = subprocess.run(
        command, env=environment, cwd=image.folder, capture_output=True, check=False
    )
    return ran.returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86_64 only")
def test_the_slim_image_has_every_library(image):
    """Native code needs nothing of the system but what the slim image has."""
    packages = image.folder / "python" / "lib"
    files = [str(path) for path in packages.rglob("*.so*") if path.is_file()]
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"^\s+(\S+) => (\S+)", said, re.MULTILINE)
    outside = {name for name, place in needed if not place.startswith(str(image.folder))}
    # A wheel's libraries find each other by what loads them, which ldd does not see of one alone.
    outside -= {Path(file).name for file in files}
    assert len(needed) > len(files)
    assert outside <= LIBRARIES

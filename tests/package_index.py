"""A virtual environment and the wheels that its pip finds: nothing leaves this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAGS = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Env(NamedTuple):
    """An environment below ``root``, and the variables that keep its pip on this machine."""

    root: Path
    variables: dict[str, str]

    @classmethod
    def made(cls, root: Path) -> Env:
        """Make one, with the pip of this environment without the rest of it, and no wheels."""
        venv.create(root / "venv", with_pip=False)
        (root / "lib").mkdir()
        (root / "lib" / "pip").symlink_to(Path(pip.__file__).parent)
        (root / "wheels").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        links = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(root / "wheels")}
        return cls(root, kept | links | {"PYTHONPATH": str(root / "lib")})

    @property
    def python(self) -> str:
        return str(self.root / "venv" / "bin" / "python")

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def site(self) -> Path:
        version = "python{}.{}".format(*sys.version_info)
        return self.root / "venv" / "lib" / version / "site-packages"

    def version(self, name: str) -> str:
        """Return a distribution's version, or "absent"."""
        script = f"import importlib.metadata as m; print(m.version({name!r}))"
        return self.run(script) or "absent"

    def run(self, script: str) -> str:
        """Return what a script prints in the environment; nothing if it fails."""
        command = [self.python, "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.variables
        )
        return done.stdout.strip()

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Return every file of the environment with its content and time, caches left out."""
        files = (file for file in (self.root / "venv").rglob("*") if file.is_file())
        return {
            str(file): (file.read_bytes(), file.stat().st_mtime_ns)
            for file in files
            if "__pycache__" not in file.parts
        }

    def add_wheel(
        self,
        name: str,
        version: str = "1.0",
        files: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
    ) -> None:
        """Add a wheel of ``files``, by default a module of its own name."""
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
        content = files or {f"{name}.py": f"version = {version!r}\n"}
        parts = {f"{info}/METADATA": metadata, f"{info}/WHEEL": TAGS, f"{info}/RECORD": ""}
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in {**content, **parts}.items():
                wheel.writestr(path, text)

"""Fetches the vendored libraries from npm, or checks that they are what their packages hold.

``python plugins/console/vendor.py`` compares every file with its package, whose own hash (the
registry's ``dist.integrity``) stands in ``vendor.json``; with ``--write`` it writes the files anew.
It needs npm. With ``--recorded`` it needs none, and compares them with the SHA-256 that
``--write`` noted of each.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MANIFEST = HERE / "vendor.json"
LIBRARIES = HERE / "mataserver_console" / "web" / "vendor"


def packed(name: str, version: str, integrity: str, folder: Path) -> Path:
    """Return the package as npm gives it. Raises ``SystemExit`` when it is another one."""
    command = ["npm", "pack", "--silent", f"{name}@{version}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603
    path = folder / ran.stdout.split()[-1]
    found = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != integrity:
        raise SystemExit(f"{name} {version}: the package is {found}, not {integrity}")
    return path


def files_of(package: dict[str, Any], folder: Path) -> dict[Path, bytes]:
    """Return each file that is vendored of a package, as it should be here."""
    path = packed(package["name"], package["version"], package["integrity"], folder)
    made: dict[Path, bytes] = {}
    with tarfile.open(path) as archive:
        for source, target in package["files"].items():
            member = archive.extractfile(f"package/{source}")
            if member is None:
                raise SystemExit(f"{package['name']}: no file {source}")
            data = member.read()
            for old, new in package.get("replace", {}).items():
                data = data.replace(old.encode(), new.encode())
            made[HERE / target] = data
    return made


def sha256_of(path: Path) -> str:
    """Return the hash of a file, or "" of one that is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def unlike_recorded(packages: list[dict[str, Any]]) -> list[str]:
    """Return the files that are not as they were written, or that no package has."""
    recorded = {name: each for package in packages for name, each in package["sha256"].items()}
    known = {name for package in packages for name in package["files"].values()}
    there = {
        str(path.relative_to(HERE)) for path in LIBRARIES.iterdir() if not path.match("*.d.mts")
    }
    return sorted(
        name for name in known | there if recorded.get(name) != (sha256_of(HERE / name) or None)
    )


def unlike_packages(packages: list[dict[str, Any]], *, write: bool) -> list[str]:
    """Return the files that are not as in their packages; with ``write`` they are made so."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            for path, data in files_of(package, Path(folder)).items():
                if write:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                elif not path.is_file() or path.read_bytes() != data:
                    wrong.append(str(path.relative_to(HERE)))
    return wrong


def main() -> None:
    """Check or write every file of the manifest."""
    write = "--write" in sys.argv[1:]
    packages = json.loads(MANIFEST.read_text())
    wrong = [] if "--recorded" in sys.argv[1:] else unlike_packages(packages, write=write)
    if write:
        for package in packages:
            package["sha256"] = {name: sha256_of(HERE / name) for name in package["files"].values()}
        MANIFEST.write_text(json.dumps(packages, indent=2) + "\n")
    wrong = sorted({*wrong, *unlike_recorded(packages)})
    if wrong:
        raise SystemExit("not as in their packages: " + ", ".join(wrong))


if __name__ == "__main__":
    main()

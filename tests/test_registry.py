"""The registry file: concurrent, atomic, and never overwritten when damaged."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from mataserver.library.registry import Entry, Registry, RegistryError

if TYPE_CHECKING:
    from pathlib import Path

DETR = Entry(task="detect", source="hf", pulled_at=1_700_000_000.5)
CORRUPT = "the model registry is corrupt: "


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "data" / "model_registry.json")


def run(script: str, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE)


def test_missing_file_is_an_empty_registry(registry):
    """A fresh data directory has no models, and reading creates nothing."""
    assert registry.entries() == {}
    assert registry.get("a/b") is None
    assert registry.remove("a/b") is False
    assert not registry.path.exists()


def test_file_has_the_documented_format(registry):
    """The file is version 1, and only local models carry a path."""
    registry.add("facebook/detr-resnet-50", DETR)
    registry.add("mine", Entry(task="ocr", source="local", pulled_at=2.0, path="/models/mine"))
    assert msgspec.json.decode(registry.path.read_bytes()) == {
        "version": 1,
        "models": {
            "facebook/detr-resnet-50": {
                "task": "detect",
                "source": "hf",
                "pulled_at": 1_700_000_000.5,
            },
            "mine": {"task": "ocr", "source": "local", "pulled_at": 2.0, "path": "/models/mine"},
        },
    }


def test_added_models_are_read_by_another_instance(registry):
    """What one instance adds, replaces or removes, an older instance sees at its next look."""
    other = Registry(registry.path)
    assert other.entries() == {}
    registry.add("a/b", DETR)
    assert other.get("a/b") == DETR
    changed = msgspec.structs.replace(DETR, task="segment")
    registry.add("a/b", changed)
    assert other.entries() == {"a/b": changed}
    assert registry.remove("a/b") is True
    assert other.entries() == {}


def test_callers_cannot_change_the_cached_copy(registry):
    """The returned dictionary belongs to the caller."""
    registry.add("a/b", DETR)
    registry.entries().clear()
    registry.last_good().clear()
    assert registry.entries() == registry.last_good() == {"a/b": DETR}


def test_unchanged_file_is_not_read_again(registry):
    """As long as time, size and inode stay the same, the file's content is not looked at."""
    registry.add("a/b", DETR)
    assert registry.entries() == {"a/b": DETR}
    status = registry.path.stat()
    with registry.path.open("r+b") as file:
        file.write(b"?" * status.st_size)
    os.utime(registry.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert registry.entries() == {"a/b": DETR}
    with pytest.raises(RegistryError):
        Registry(registry.path).entries()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b'{"version": 1, "models": {', "truncated"),
        (b"[]", "Expected `object`"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"version": 2, "models": {}}', "version 2 is unknown"),
        (b'{"version": 1}', "models"),
        (b'{"version": 1, "models": {}, "extra": 1}', "extra"),
        (b'{"version": 1, "models": {"\xff": {}}}', "utf-8"),
        (b'{"version": 1, "models": {"a": {"task": "ocr"}}}', "source"),
        (
            b'{"version": 1, "models": {"a": {"task": "ocr", "source": "ftp", "pulled_at": 1}}}',
            "ftp",
        ),
        (
            b'{"version": 1, "models": {"a": {"task": "ocr", "source": "local", "pulled_at": 1}}}',
            "a local model has a path",
        ),
        (
            b'{"version": 1, "models": {"a": {"task": "ocr", "source": "pip", "color": 3}}}',
            "color",
        ),
    ],
)
def test_corrupt_file_is_an_error_and_is_never_overwritten(registry, content, reason):
    """Whatever is wrong with the file, reading and changing say so and leave it as it is."""
    registry.path.parent.mkdir()
    registry.path.write_bytes(content)
    for act in (registry.entries, lambda: registry.add("a/b", DETR), lambda: registry.remove("a")):
        with pytest.raises(RegistryError) as caught:
            act()
        assert caught.value.status == 500
        assert caught.value.detail.startswith(CORRUPT)
        assert reason.lower() in caught.value.detail.lower()
        assert caught.value.detail.endswith("; repair or remove model_registry.json")
    assert registry.path.read_bytes() == content


def test_last_good_survives_corruption(registry):
    """A server keeps the newest readable copy, and reads the file again once it is repaired."""
    registry.add("a/b", DETR)
    good = registry.path.read_bytes()
    registry.path.write_bytes(b"{")
    with pytest.raises(RegistryError):
        registry.entries()
    assert registry.last_good() == {"a/b": DETR}
    registry.path.write_bytes(good)
    registry.add("c/d", DETR)
    assert registry.entries() == registry.last_good() == {"a/b": DETR, "c/d": DETR}


def test_removed_file_is_an_empty_registry_again(registry):
    """Deleting the file by hand unregisters every model."""
    registry.add("a/b", DETR)
    registry.path.unlink()
    assert registry.entries() == registry.last_good() == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "local"},
        {"source": "pip", "path": "/x"},
        {"source": "hf", "pulled_at": float("nan")},
    ],
)
def test_entries_that_could_not_be_read_back_cannot_be_made(fields):
    """An entry that reading would refuse is refused before it is written."""
    with pytest.raises(ValueError, match=r"path|pulled_at"):
        Entry(**{"task": "ocr", "pulled_at": 1.0, **fields})


ADD_MANY = """
import sys
from pathlib import Path
from mataserver.library.registry import Entry, Registry

registry = Registry(Path(sys.argv[1]))
for index in range(20):
    registry.add(f"{sys.argv[2]}/{index}", Entry(task="ocr", source="hf", pulled_at=1.0))
    if index % 2:
        registry.remove(f"{sys.argv[2]}/{index}")
"""


def test_processes_that_write_at_once_lose_nothing(registry):
    """Three processes that add and remove concurrently end with every kept entry."""
    children = [run(ADD_MANY, str(registry.path), name) for name in "abc"]
    for child in children:
        child.communicate()
    assert [child.returncode for child in children] == [0, 0, 0]
    expected = {f"{name}/{index}" for name in "abc" for index in range(0, 20, 2)}
    assert set(registry.entries()) == expected
    assert {path.name for path in registry.path.parent.iterdir()} == {
        "model_registry.json",
        "model_registry.json.lock",
    }


def test_new_files_are_private_and_a_chosen_mode_is_kept(registry):
    """The directory and the file are the user's alone until the user says otherwise."""
    registry.add("a/b", DETR)
    assert stat.S_IMODE(registry.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o600
    registry.path.chmod(0o640)
    registry.add("c/d", DETR)
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o640


KILLED = """
import os, signal
from pathlib import Path
from mataserver.library.registry import Entry, Registry

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
Registry(Path("model_registry.json")).add("c/d", Entry(task="ocr", source="hf", pulled_at=1.0))
"""
ADD_ONE = """
import os, resource, sys
from pathlib import Path
from mataserver.library.registry import Entry, Registry, RegistryError

entry = Entry(task="ocr", source="hf", pulled_at=1.0)
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
elif os.geteuid() == 0:
    os.setuid(65534)
try:
    Registry(Path("model_registry.json")).add("c/d", entry)
except RegistryError as error:
    print(error.status, error.detail)
"""


@pytest.mark.parametrize(
    ("obstacle", "status", "reason"),
    [("full", 507, "File too large"), ("read-only", 500, "Permission denied")],
)
def test_failed_write_leaves_the_old_file_and_no_litter(registry, obstacle, status, reason):
    """When the disk takes no more or the directory is read-only, the old registry stays."""
    registry.add("a/b", DETR)
    directory = registry.path.parent
    if obstacle == "read-only":
        directory.chmod(0o555)
        registry.path.chmod(0o644)
    before = sorted(path.name for path in directory.iterdir())
    output, _ = run(ADD_ONE, obstacle, cwd=directory).communicate()
    directory.chmod(0o700)
    assert output == f"{status} could not write the model registry: {reason}\n"
    assert sorted(path.name for path in directory.iterdir()) == before
    assert registry.entries() == {"a/b": DETR}


def test_what_a_killed_writer_left_is_removed(registry):
    """A writer that is killed before its file takes the old one's place changes nothing."""
    registry.add("a/b", DETR)
    directory = registry.path.parent
    before = sorted(path.name for path in directory.iterdir())
    with run(KILLED, cwd=directory) as writer:
        assert writer.wait() == -signal.SIGKILL
    assert len(list(directory.iterdir())) == len(before) + 1
    assert registry.entries() == {"a/b": DETR}
    registry.add("c/d", DETR)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_a_process_without_file_descriptors_is_told_to_ask_again(registry):
    """The lock cannot be opened: 503, and what was registered stays."""
    registry.add("a/b", DETR)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(RegistryError) as caught:
            registry.add("c/d", DETR)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert (caught.value.status, caught.value.retry_after) == (503, 1)
    assert registry.entries() == {"a/b": DETR}


def test_data_directory_that_cannot_be_made_is_an_error(tmp_path):
    """A file where the data directory should be is told without its path."""
    (tmp_path / "data").write_text("")
    registry = Registry(tmp_path / "data" / "model_registry.json")
    with pytest.raises(RegistryError) as caught:
        registry.add("a/b", DETR)
    assert caught.value.detail == "could not write the model registry: File exists"
    assert caught.value.hint == (
        f"{registry.path}; the setting data_dir, MATA_SERVER_DATA_DIR, or shared_dir where it is "
        "set, names the directory"
    )
    with pytest.raises(RegistryError) as caught:
        registry.entries()
    assert caught.value.detail == "could not read the model registry: Not a directory"


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_writes_no_directories(registry, monkeypatch, reason):
    """As SMB's: what is saved there is saved; a file that is not written is an error."""
    really = os.fsync

    def fsync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(reason, os.strerror(reason))
        really(file)

    monkeypatch.setattr(os, "fsync", fsync)
    registry.add("a/b", DETR)
    assert Registry(registry.path).get("a/b") == DETR

    def broken(_file):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(RegistryError, match=os.strerror(reason)):
        registry.add("c/d", DETR)
    assert Registry(registry.path).get("c/d") is None

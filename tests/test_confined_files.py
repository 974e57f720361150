"""What the kernel keeps from a model: files, system calls, signals."""

from __future__ import annotations

import errno
import json
import os
import platform
import struct
import sys
from pathlib import Path

import pytest

from api_answers import until
from mataserver.cli.serving import note_configuration
from mataserver.engines import confinement
from mataserver.processes import landlock, seccomp
from mataserver.processes.child import run_process
from test_confinement import ask, confining

needs_landlock = pytest.mark.skipif(
    not landlock.abi_version(), reason="this kernel has no Landlock"
)
needs_seccomp = pytest.mark.skipif(not seccomp.is_available(), reason="this kernel has no seccomp")

EVERYWHERE = ["beside", "data", "neighbour", "own", "temporary"]
NAMES = {
    "data/api_key": "key",
    "data/mataserver.db": "accounts",
    "data/jobs/upload.jpg": "of another plugin",
    "data/neighbour/kept": "of another plugin",
    "data/confined/kept": "its own",
    "data/.cache/weights": "a cache",
    "beside.txt": "another file of the user",
}


@pytest.fixture
def folder(tmp_path):
    """Return a data directory with what a server keeps in it."""
    for name, text in NAMES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "data"


def test_the_configuration_is_hidden_however_it_was_named(tmp_path, monkeypatch):
    """By ``--config`` as by its variable: it may hold keys."""
    monkeypatch.setenv("MATA_SERVER_CONFIG", "other.yaml")
    note_configuration(str(tmp_path / "server.yaml"))
    assert str(tmp_path / "server.yaml") in confinement.file_rules(tmp_path, [], []).hidden


def test_keys_are_hidden_wherever_they_are_said_to_be(tmp_path):
    """By the variables of the hub and of other programs, not in their usual places alone."""
    given = {
        "HF_TOKEN_PATH": "hub/own", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config",
        "KUBECONFIG": f"kube/one{os.pathsep}{tmp_path}/kube/two", "NETRC": "netrc",
    }  # fmt: skip
    values = {name: f"{tmp_path}/{value}" for name, value in given.items()}
    hidden = confinement.file_rules(tmp_path / "data", [], [], values).hidden
    for path in (
        "hub/own", "cache/huggingface/token", "config/gcloud", "kube/one", "kube/two", "netrc",
    ):  # fmt: skip
        assert f"{tmp_path}/{path}" in hidden


def test_what_front_ends_share_and_trust_is_hidden(tmp_path):
    """The key and the secret of the shared directory; a model's file there brings no other in."""
    shared = tmp_path / "shared"
    shared.mkdir()
    model = shared / "model.onnx"
    model.touch()
    found = confinement.file_rules(tmp_path / "data", [], [model], {}, shared)
    assert {str(shared / "api_key"), str(shared / "frontends")} <= set(found.hidden)
    assert str(model) in found.readable
    assert str(shared) not in found.readable


@needs_landlock
async def test_a_model_beside_the_configuration_does_not_read_it(tmp_path):
    """The directory of a model is read, but for what is hidden in it."""
    for name in ("models/server.yaml", "models/weights", "models/deep/key", "models/deep/more"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    hidden = (str(tmp_path / "models" / "server.yaml"), str(tmp_path / "models" / "deep" / "key"))
    reads = (str(tmp_path / "models"),)
    asked = json.dumps([hidden, reads, [str(tmp_path / "models")]])
    own = tmp_path / "temporary"
    own.mkdir()
    async with run_process(reading, [asked], environment={"TMPDIR": str(own)}) as child:
        [found] = [each async for each in child.messages(list)]
    assert found == ["deep/more", "weights"]


def reading(parent):
    """Tell which files in a folder can be read under rules."""
    hidden, reads, [folder] = json.loads(parent.arguments[0])
    landlock.Confinement(tuple(hidden), tuple(reads), ()).apply()
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    parent.send([str(path.relative_to(folder)) for path in files if allowed(path.read_text)])


@needs_landlock
async def test_a_model_reads_no_keys_and_writes_in_its_own_places(folder):
    """Of the data directory it reads its own and caches; it writes its own and a place that goes.

    That place is gone once the model is unloaded.
    """
    async with confining(folder) as http:
        status, seen = await ask(http, "files")
        assert status == 200
        assert {"data/confined/kept", "data/.cache/weights", "beside.txt"} <= set(seen["reads"])
        assert not {name for name in NAMES if "of another" in NAMES[name]} & (set(seen["reads"]))
        assert not {"data/api_key", "data/mataserver.db"} & set(seen["reads"])
        assert seen["writes"] == ["own", "temporary"]
        assert Path(seen["temporary"]).is_dir()
        async with http.post("/v1/models/unload", json={"model": "confined"}) as response:
            assert response.status == 200
        await until(lambda: not Path(seen["temporary"]).exists())


@needs_landlock
@needs_seccomp
async def test_a_model_may_do_little_to_others(folder):
    """It traces, mounts and limits nothing, and where the kernel can hold it signals nobody."""
    async with confining(folder) as http:
        status, seen = await ask(http, "calls")
    assert (status, seen.pop("own limit")) == (200, "")
    refused = {name for name, error in seen.items() if error == "EPERM"}
    assert refused == seen.keys() - {"signal"}
    assert seen["signal"] is (landlock.abi_version() < 6)


@needs_landlock
async def test_a_model_opens_nothing_of_other_processes(folder):
    """Neither the memory and the open files of the server, nor those of another model."""
    (folder / "confined" / "server").write_text(str(os.getpid()))
    async with confining(folder) as http:
        assert (await ask(http, "rights", "neighbour"))[0] == 200
        status, seen = await ask(http, "others")
    assert (status, seen["opened"]) == (200, [])
    assert seen["others"] >= 2


async def test_an_operator_confines_none(folder):
    """With ``confine_models: false`` a model reads and writes as the server does."""
    async with confining(folder, confine_models=False) as http:
        status, seen = await ask(http, "files")
        assert status == 200
        assert set(NAMES) <= set(seen["reads"])
        assert seen["writes"] == EVERYWHERE
        status, seen = await ask(http, "calls")
        assert (status, seen["signal"]) == (200, True)


TRACES = "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.ptrace(0x4206, -1, 0, 0); "
TRACES += "print(ctypes.get_errno())"


@needs_seccomp
async def test_a_child_traces_nobody():
    """A child of a service is refused the same calls, unless the service says that it needs them.

    There is no process -1: who may call learns that.
    """
    command = [sys.executable, "-c", TRACES]
    found = []
    for confined in (True, False):
        async with run_process(command, confined=confined) as child:
            found.append(int(await child.output.read()))
    assert found == [errno.EPERM, errno.ESRCH]


@needs_landlock
async def test_who_decodes_a_camera_changes_nothing(tmp_path):
    """A process under ``change_nothing`` reads, writes to devices, and makes no file."""
    file = tmp_path / "file"
    file.write_text("x")
    async with run_process(changing_nothing, [str(file)]) as child:
        found = [each async for each in child.messages(list)]
    assert found == [[True, True, False, False]]


def changing_nothing(parent):
    """Tell whether a file can be read, a device written, the file written and another made."""
    file = Path(parent.arguments[0])
    landlock.make_read_only()
    acts = [
        file.read_text,
        lambda: Path(os.devnull).write_text("x"),
        lambda: file.write_text("y"),
        file.with_name("other").touch,
    ]
    parent.send([allowed(act) for act in acts])


def allowed(act):
    try:
        act()
    except PermissionError:
        return False
    return True


def test_everything_but_what_is_hidden(tmp_path):
    """What surrounds hidden paths is named piece by piece; links, and what hides, are not."""
    for name in ("a/secret", "a/plain", "b/c/deep", "b/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    hidden = [str(tmp_path / "a" / "secret"), str(tmp_path / "b" / "c"), str(tmp_path / "absent")]
    named = set(landlock.paths_except(hidden))
    assert {path for path in named if path.startswith(f"{tmp_path}/")} == {
        str(tmp_path / "a" / "plain"),
        str(tmp_path / "b" / "d"),
    }
    assert "/usr" in named or Path("/usr").is_symlink()
    assert not {str(parent) for parent in (tmp_path, *tmp_path.parents)} & named


def test_rules_follow_the_model(tmp_path):
    """A model that is a file is read with what lies beside it, unless that is the data directory.

    The hub's cache is read wherever it is, but its token; a cache that a variable names is filled.
    """
    data, home = tmp_path / "data", tmp_path / "data" / "hub"
    (tmp_path / "m").mkdir()
    data.mkdir()
    files = [tmp_path / "m" / "m.onnx", data / "n.onnx"]
    for file in files:
        file.write_text("x")
    chosen = {"HF_HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    found = confinement.file_rules(data, ["onnx"], files, chosen)
    assert {str(tmp_path / "m"), str(data / "n.onnx"), str(home / "hub")} <= set(found.readable)
    assert str(data) not in found.readable
    assert {str(data / "api_key"), str(home / "token")} <= set(found.hidden)
    assert found.writable == (str(data / "onnx"), str(tmp_path / "numba"))


def decided(code, architecture, number, *arguments):
    """Run a filter as the kernel does; return its verdict on a call."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    data = {0: number, 4: architecture}
    data |= {16 + 8 * at: value for at, value in enumerate((*arguments, *[0] * 6))}
    at = held = 0
    while True:
        kind, yes, no, value = instructions[at]
        at += 1
        if kind == 0x20:
            held = data[value]
        elif kind == 0x06:
            return value
        else:
            tests = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}
            true = tests[kind]
            at += yes if true else no


@pytest.mark.parametrize(
    ("machine", "architecture", "column", "harmless"),
    [("x86_64", 0xC000003E, 0, (0, 1, 56, 59)), ("aarch64", 0xC00000B7, 1, (63, 64, 220, 221))],
)
def test_the_filter(machine, architecture, column, harmless):
    """It refuses the listed calls and those of other architectures, and nothing else."""
    code = seccomp.build_filter(machine)
    refused, allowed = 0x00050000 | errno.EPERM, 0x7FFF0000
    for numbers in seccomp.DENIED_CALLS.values():
        assert decided(code, architecture, numbers[column]) == refused
        assert decided(code, 0x40000003, numbers[column]) == refused
    assert {decided(code, architecture, number) for number in harmless} == {allowed}
    others = set(range(512)) - {numbers[column] for numbers in seccomp.DENIED_CALLS.values()}
    others -= {numbers[column] for numbers, _ in seccomp.SELF_ONLY_CALLS.values()}
    others -= {seccomp.CLONE3[column]}
    assert {decided(code, architecture, number) for number in others} == {allowed}
    assert decided(code, architecture, seccomp.CLONE3[column]) == 0x00050000 | errno.ENOSYS
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x04000000):
        assert decided(code, architecture, seccomp.CLONE[column], flag | 17) == refused
    assert decided(code, architecture, seccomp.CLONE[column], 0x003D0F00) == allowed  # a thread
    for numbers, own in seccomp.SELF_ONLY_CALLS.values():
        assert decided(code, architecture, numbers[column], *own) == allowed
        for at in range(len(own)):
            others_own = [*own[:at], 4711, *own[at + 1 :]]
            assert decided(code, architecture, numbers[column], *others_own) == refused
    x32 = refused if machine == "x86_64" else allowed
    assert decided(code, architecture, 0x40000000 + 500) == x32


def test_a_machine_without_a_filter():
    """Of a machine whose numbers are not known nothing is filtered."""
    assert seccomp.build_filter("riscv64") == b""
    assert bool(seccomp.build_filter(platform.machine())) is seccomp.is_available()

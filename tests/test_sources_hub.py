"""Downloads from a stand-in for the hub: what arrives, what is resumed, what is told."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import scan_cache_dir

from hub_stand_in import HubStandIn
from mataserver.errors import BadRequest
from mataserver.sources.cache import cached, disk_usage
from mataserver.sources.hub import download, fetch_config, validate_repo_id
from mataserver.sources.messages import Progress, SourceUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WEIGHTS = random.Random(0).randbytes(2_000_000)
CONFIG = b'{"model_type": "detr", "limit": Infinity}'
FILES = {
    "config.json": CONFIG,
    "preprocessor_config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 1000,
    "onnx/model.onnx": b"onnx" * 1000,
    "README.md": b"# A model",
}
MODEL = "org/detr"
BLOB = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        server.add(MODEL, dict(FILES))
        yield server


@pytest.fixture(autouse=True)
def env(hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    # A held transfer must end because its client does, not because it grew tired.
    variables = hub.environment(tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="100")
    for name in os.environ.keys() - variables.keys():
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def blob(tmp_path: Path, ending: str = "") -> Path:
    return tmp_path / "hub" / "models--org--detr" / "blobs" / (BLOB + ending)


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(poll, condition)


@pytest.mark.parametrize("text", ["PekingU/rtdetr_v2_r18vd", "gpt2", "a/b", "o-r.g/_x", "a" * 96])
def test_ids_of_the_hub_are_taken(text):
    """Every form of id that the hub gives out is returned as it is."""
    assert validate_repo_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "a//b",
            "a--b/c",
            "a..b/c",
            "a/b.git",
            "-a/b",
            "a/b.",
            "a b",
        ),
        *("https://example.org/a", "~/a", "./a", "../a", "C:\\a", "a/b\n", "a/b?x", "é/b", "a\0/b"),
        *("a/" + "b" * 97, "--help", "a/b@main"),
    ],
)
def test_everything_else_is_no_id(text):
    """URLs, paths, options and odd characters are refused, and not repeated to the client."""
    with pytest.raises(BadRequest) as caught:
        validate_repo_id(text)
    assert caught.value.detail == (
        "not a model id of the hub: expected org/name, not a URL or a path"
    )


async def test_config_is_read_without_touching_the_cache(hub, tmp_path):
    """Looking at a model's configuration leaves no half a model behind."""
    assert await fetch_config(MODEL) == {
        "model_type": "detr",
        "limit": float("inf"),
    }
    assert list(tmp_path.iterdir()) == []


async def test_download_takes_one_format_and_reports_progress(hub):
    """The snapshot holds the safetensors and no duplicates, and progress runs to the end."""
    seen: list[Progress] = []
    assert cached(MODEL) is None
    snapshot = await download(MODEL, seen.append)
    names = {str(file.relative_to(snapshot)) for file in snapshot.rglob("*")}
    assert names == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "README.md",
    }
    assert {name: (snapshot / name).read_bytes() for name in names} == {
        name: FILES[name] for name in names
    }
    total = sum(len(FILES[name]) for name in names)
    assert [one.done_bytes for one in seen] == sorted(one.done_bytes for one in seen)
    assert seen[0].done_bytes == 0
    assert seen[-1] == Progress(done_bytes=total, total_bytes=total, done_files=4, total_files=4)
    assert cached(MODEL) == snapshot


async def test_second_download_fetches_nothing(hub):
    """A complete model is described by the hub once and no file is asked for."""
    first = await download(MODEL)
    hub.requests.clear()
    assert await download(MODEL) == first
    assert [request.path for request in hub.requests] == [f"/api/models/{MODEL}"]


async def test_broken_connection_is_continued(hub):
    """A connection cut in the middle of a file is taken up where the bytes ended."""
    hub.repos[MODEL].cut_at = 1_500_000
    snapshot = await download(MODEL)
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.asked("GET", "model.safetensors")
    assert first.range is None
    assert 1_000_000 < int(second.range.removeprefix("bytes=").rstrip("-")) <= 1_500_000


@pytest.mark.parametrize("no_ranges", [False, True])
async def test_cancelled_download_ends_its_child_and_is_resumed(hub, tmp_path, no_ranges):
    """What had arrived when the download was cancelled is not fetched again by the next one."""
    repo = hub.repos[MODEL]
    repo.hold_at, repo.no_ranges = 1_500_000, no_ranges
    task = asyncio.create_task(download(MODEL))
    partial = blob(tmp_path, ".incomplete")
    await until(lambda: hub.holding.is_set() and partial.exists() and partial.stat().st_size > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(hub.dropped.wait, 30)
    assert cached(MODEL) is None
    kept = partial.stat().st_size

    repo.hold_at = None
    seen: list[Progress] = []
    snapshot = await download(MODEL, seen.append)
    assert seen[0].done_bytes == kept
    assert hub.asked("GET", "model.safetensors")[-1].range == f"bytes={kept}-"
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert not partial.exists()


SERVER = """
import asyncio, sys
from mataserver.sources.hub import download
asyncio.run(download(sys.argv[1]))
"""


def test_killed_server_leaves_no_download_running(hub, env):
    """When the server is killed, its download child ends by itself."""
    hub.repos[MODEL].hold_at = 1000
    server = subprocess.Popen([sys.executable, "-c", SERVER, MODEL], env=env)
    poll(hub.holding.is_set)
    server.send_signal(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    assert hub.dropped.wait(30)


async def test_two_downloads_of_one_model_share_the_work(hub):
    """Two processes that pull the same model at once transfer its weights once."""
    hub.repos[MODEL].hold_at = 1000
    tasks = [asyncio.create_task(download(MODEL)) for _ in range(2)]
    await until(lambda: len([r for r in hub.requests if r.path.endswith(MODEL)]) == 2)
    hub.release()
    first, second = await asyncio.gather(*tasks)
    assert first == second
    assert len(hub.asked("GET", "model.safetensors")) == 1


async def test_damaged_file_is_thrown_away(hub, tmp_path):
    """Wrong bytes are noticed by their hash and are not continued by the next download."""
    hub.repos[MODEL].damaged.add("model.safetensors")
    with pytest.raises(BadRequest) as caught:
        await download(MODEL)
    assert caught.value.detail == "a file of org/detr has arrived damaged; pull it again"
    assert not blob(tmp_path).exists()
    assert not blob(tmp_path, ".incomplete").exists()
    hub.repos[MODEL].damaged.clear()
    assert await download(MODEL) == cached(MODEL)


@pytest.mark.parametrize(
    ("behaviour", "unreachable", "detail"),
    [
        (
            {"gated": True},
            False,
            "model org/x is gated: accept its terms on its page and set HF_TOKEN",
        ),
        ({"private": "other"}, False, "model not found on the hub: org/x"),
        ({"status": 403}, False, "the hub refuses access to org/x: check HF_TOKEN"),
        ({"status": 404}, False, "model not found on the hub: org/x"),
        ({"status": 429}, True, "cannot reach the hub: it limits requests, try again later"),
        ({"status": 500}, True, "cannot reach the hub: it answers with an error (500)"),
        ({"portal": True}, True, "cannot reach the hub: the answer is not the hub's"),
        ({"stalled": True}, True, "cannot reach the hub: it does not answer in time"),
    ],
)
async def test_failures_are_told_in_a_sentence(hub, behaviour, unreachable, detail, monkeypatch):
    """The hub's refusals and failures become 400 with a reason."""
    hub.add("org/x", dict(FILES), **behaviour)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    with pytest.raises(BadRequest) as caught:
        await fetch_config("org/x")
    assert caught.value.status == 400
    assert caught.value.detail == detail
    assert isinstance(caught.value, SourceUnreachable) == unreachable


async def test_gated_model_is_not_downloaded(hub):
    """A gated repository can be described but not fetched, and the way out is told."""
    hub.repos[MODEL].gated = True
    with pytest.raises(BadRequest, match=r"org/detr is gated: accept its terms on its page"):
        await download(MODEL)
    assert cached(MODEL) is None


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        ({"model.safetensors": b"x"}, "org/x has no config.json, so its kind is unknown"),
        ({"config.json": CONFIG, "README.md": b""}, "org/x holds no weights"),
        (
            {"config.json": CONFIG, "model-00001-of-00002.safetensors": b"x"},
            "org/x lacks some of its own files",
        ),
    ],
)
async def test_repository_that_is_no_model_is_refused(hub, files, detail):
    """A repository without configuration, without weights or with missing shards is no model."""
    hub.add("org/x", files)
    with pytest.raises(BadRequest) as caught:
        await download("org/x")
    assert caught.value.detail == detail
    assert cached("org/x") is None


async def test_config_that_is_no_config_is_refused(hub):
    """A repository without config.json, or with something else under that name, is refused."""
    hub.add("org/x", {"model.safetensors": b"x"})
    with pytest.raises(BadRequest, match=r"org/x has no config.json, so its kind is unknown"):
        await fetch_config("org/x")
    hub.add("org/x", {"config.json": b"<html>"})
    with pytest.raises(BadRequest, match=r"config.json is not valid JSON"):
        await fetch_config("org/x")
    hub.add("org/x", {"config.json": CONFIG}, claimed={"config.json": 10**9})
    with pytest.raises(BadRequest, match=r"config.json of org/x is too large"):
        await fetch_config("org/x")


async def test_model_that_does_not_fit_on_the_disk_is_not_begun(hub, tmp_path):
    """The space is checked against the hub's sizes before a byte is fetched."""
    hub.add("org/x", dict(FILES), claimed={"model.safetensors": 10**18})
    with pytest.raises(BadRequest) as caught:
        await download("org/x")
    assert caught.value.detail.startswith(
        "not enough disk space for org/x: 1000000000000 MB are needed, "
    )
    assert hub.asked("GET", "model.safetensors") == []
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import asyncio, resource, sys
from mataserver.errors import BadRequest
from mataserver.sources.hub import download

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    asyncio.run(download(sys.argv[1]))
except BadRequest as error:
    print(error.detail)
    print(error.hint)
"""


def test_disk_that_takes_no_more_is_told(hub, env):
    """When writing fails in a file, the system's reason is told; the path to the operator alone."""
    command = [sys.executable, "-c", LIMITED, MODEL]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    said, hint = done.stdout.splitlines()
    assert said == "org/detr cannot be stored: File too large"
    assert hint.endswith("/hub; HF_HOME or HF_HUB_CACHE names the directory")


async def test_transfer_that_stops_is_given_up(hub, tmp_path):
    """A hub that stops in the middle of a file is given up, and what has arrived is kept."""
    hub.repos[MODEL].hold_at = 1_500_000
    with pytest.raises(SourceUnreachable) as caught:
        await download(MODEL, stall_seconds=4)
    assert caught.value.detail == "cannot reach the hub: it has stopped answering"
    assert await asyncio.to_thread(hub.dropped.wait, 30)
    assert blob(tmp_path, ".incomplete").stat().st_size > 0


async def test_absent_hub_is_told(hub, monkeypatch):
    """Nobody listening is told with the system's reason."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SourceUnreachable) as caught:
        await download(MODEL)
    assert caught.value.detail == "cannot reach the hub: Connection refused"


@pytest.mark.parametrize("outage", ["500", "offline"])
async def test_cached_model_does_without_the_hub(hub, outage, monkeypatch):
    """A complete model in the cache can be registered with no connection; no other can."""
    snapshot = await download(MODEL)
    if outage == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.repos[MODEL].status = 500
    assert await download(MODEL) == snapshot
    assert (await fetch_config(MODEL))["model_type"] == "detr"
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(SourceUnreachable):
        await download(MODEL)


async def test_token_opens_a_private_model(hub, monkeypatch):
    """HF_TOKEN is sent to the hub with every question."""
    hub.repos[MODEL].private = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await download(MODEL)
    assert {r.headers.get("authorization") for r in hub.requests} == {"Bearer hf_secret"}


@pytest.mark.parametrize("fault", ["damaged", "lost"])
async def test_new_revision_replaces_the_old_one_when_complete(hub, fault):
    """While an update is incomplete the old snapshot stays current; unchanged files are kept."""
    old = await download(MODEL)
    hub.repos[MODEL].files |= {"config.json": b"{}", "extra.safetensors": b"y" * 100_000}
    faulty = getattr(hub.repos[MODEL], fault)
    faulty.add("extra.safetensors" if fault == "damaged" else "config.json")
    with pytest.raises(BadRequest):
        await download(MODEL)
    assert cached(MODEL) == old
    faulty.clear()
    new = await download(MODEL)
    assert cached(MODEL) == new != old
    assert len(hub.asked("GET", "model.safetensors")) == 1
    (scanned,) = scan_cache_dir(old.parents[2]).repos
    assert len(scanned.revisions) == 2
    usage = disk_usage(MODEL)
    assert (usage.size_bytes, usage.last_accessed) == (scanned.size_on_disk, scanned.last_accessed)


async def test_deleted_contents_are_fetched_again(hub):
    """Links to contents that somebody deleted make a snapshot incomplete until the next pull."""
    snapshot = await download(MODEL)
    (snapshot / "model.safetensors").resolve().unlink()
    (snapshot / "stray.bin").symlink_to("../../blobs/gone")
    assert cached(MODEL) is None
    assert await download(MODEL) == snapshot == cached(MODEL)


def test_server_process_does_not_import_the_library():
    """The server gets by without huggingface_hub; it is the child's."""
    script = "import sys, mataserver.sources; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False\n"


async def test_current_directory_is_not_searched_for_code(hub, tmp_path, monkeypatch):
    """A file beside the user cannot stand in for a module of the child."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    assert (await fetch_config(MODEL))["model_type"] == "detr"


async def test_child_that_dies_is_an_error(hub, caplog, monkeypatch):
    """A child that ends without an answer is a failed pull, and its last words are logged."""
    monkeypatch.setenv("PYTHONIOENCODING", "no encoding")
    with pytest.raises(BadRequest) as caught:
        await fetch_config(MODEL)
    assert caught.value.detail == "the download of org/detr has ended unexpectedly"
    assert "the download child failed" in caplog.text

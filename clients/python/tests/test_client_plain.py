"""The client for code without an event loop, against a stand-in server in a thread."""

from __future__ import annotations

import inspect
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_stand_in import BOXES, KEY, SILENT, StandIn, picture
from client_cases import connected_plainly, every, pictures, widths

from mataserver.errors import NotFound
from mataserver_client import AsyncClient, Client, ConnectionFailed


def test_the_plain_client_does_what_the_other_does(tmp_path):
    """Every method works without an event loop, and streams are plain iterators."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    with connected_plainly(StandIn()) as client:
        assert client.health().status == "ok"
        assert len(client.models()) == 3
        assert client.model(BOXES).source == "hf"
        assert client.pull("acme/new", "depth").model == "acme/new"
        assert client.warmup(BOXES).status == "ready"
        assert client.unload(BOXES).status == "not_loaded"
        assert client.unload(BOXES, if_loading=True).status == "ready"
        assert client.plugins() == [{"name": "fake", "status": "ok"}]
        for infer in (client.infer, client.upload, client.infer_raw):
            assert infer(BOXES, path, confidence=0.5).detections[0].label == "patch"
        session = client.create_session(BOXES, "detect")
        assert client.session(session.session_id) in client.sessions()
        client.delete_session(session.session_id)
        assert widths(client.stream(BOXES, iter(pictures(4)))) == every(4)
        with pytest.raises(NotFound):
            client.model("acme/none")


def test_every_method_of_one_client_is_one_of_the_other():
    """The two clients offer the same names with the same parameters."""

    def methods(kind):
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, callable)
            if not name.startswith("_") and name != "close"
        }

    assert methods(Client) == methods(AsyncClient)


def test_closing_leaves_no_thread_and_ends_open_streams():
    """After close() there is no thread, no session, and no way to go on."""
    before = set(threading.enumerate())
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        serving = set(threading.enumerate())
        client = Client(stand_in.url, KEY)
        stream = client.stream(BOXES, iter(pictures(9)))
        assert next(stream).frame_id == 0
        client.close()
        client.close()
        assert set(threading.enumerate()) == serving
        assert len(stand_in.deleted) == 1
        for call in (lambda: next(stream), client.health):
            with pytest.raises(ConnectionFailed, match="The client is closed") as told:
                call()
            assert isinstance(told.value, RuntimeError)  # which it was once
    assert set(threading.enumerate()) == before


def test_a_client_that_is_dropped_ends_its_thread():
    """A client that nobody closes keeps neither thread nor descriptors once nobody has it."""
    with StandIn().serve_in_thread() as stand_in:
        serving = set(threading.enumerate())
        client = Client(stand_in.url, KEY)
        assert client.health().status == "ok"
        [thread] = set(threading.enumerate()) - serving
        del client
        thread.join(30)
        assert not thread.is_alive()


def test_a_stream_keeps_its_client():
    """A stream goes on where it alone is kept, and ends the client with itself."""
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        stream = Client(stand_in.url, KEY).stream(BOXES, iter(pictures(9)))
        assert [next(stream).frame_id for _ in range(3)] == [0, 1, 2]
        [thread] = {each for each in threading.enumerate() if each.name == "mataserver-client"}
        del stream
        thread.join(30)
        assert not thread.is_alive()
        assert len(stand_in.deleted) == 1


def test_leaving_a_plain_stream_early_deletes_its_session():
    """Dropping the iterator closes the stream at once."""
    stand_in = StandIn()
    with connected_plainly(stand_in) as client:
        for item in client.stream(BOXES, pictures(9)):
            assert item.frame_id == 0
            break
        assert len(stand_in.deleted) == 1


def test_closing_ends_a_call_in_another_thread():
    """A call that waits while the client is closed raises ConnectionFailed."""
    stand_in = StandIn(faults={0: SILENT})
    with stand_in.serve_in_thread(), ThreadPoolExecutor() as pool:
        client = Client(stand_in.url, KEY)
        reading = pool.submit(list, client.stream(BOXES, pictures(2)))
        stand_in.first_frame.wait(10)
        client.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            reading.result()
        assert len(stand_in.deleted) == 1


def test_threads_share_a_plain_client():
    """Calls and streams from many threads do not get mixed up."""
    with connected_plainly(StandIn()) as client, ThreadPoolExecutor(4) as pool:
        singles = [pool.submit(client.infer, BOXES, picture(width)) for width in range(1, 9)]
        streams = [pool.submit(list, client.stream(BOXES, pictures(4))) for _ in range(3)]
        assert [call.result().detections[0].bbox[2] for call in singles] == list(range(1, 9))
        assert all(widths(call.result()) == every(4) for call in streams)


def test_streams_that_wait_for_frames_leave_threads_for_others(tmp_path):
    """An event loop has at most 32 threads: names and files are looked up in the same."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    ends = [queue.SimpleQueue() for _ in range(33)]

    def frames(end):
        yield from pictures(1)
        end.get()

    with connected_plainly(StandIn()) as client, ThreadPoolExecutor(33) as pool:
        streams = [client.stream(BOXES, frames(end)) for end in ends]
        try:
            assert widths(pool.map(next, streams)) == every(1) * 33
            read = pool.submit(client.infer, BOXES, path)
            assert read.result(timeout=60).detections[0].bbox[2] == 5
        finally:
            for end in ends:
                end.put(None)


LEFT_OPEN = """
from pathlib import Path
from mataserver_client import Client
client = Client({url!r}, {key!r})
stream = client.stream({model!r}, [Path({path!r}).read_bytes()] * 9)
print(next(stream).task)
"""
FORKED = """
import os
from mataserver_client import Client
client = Client({url!r}, {key!r})
client.health()
if not (pid := os.fork()):
    try:
        client.health()
    except RuntimeError as error:
        print(error, flush=True)
    raise SystemExit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), client.health().status)
"""

LEFT_WITH_A_NAME = """
import atexit, threading
from mataserver_client import Client

def no_thread(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

client = Client("{url}".replace("127.0.0.1", "localhost"), "{key}")
print(client.health().status, flush=True)
atexit.register(setattr, threading.Thread, "start", no_thread)
"""


def ran(program, stand_in, path=""):
    """Run a program with a client of the server; return what it printed."""
    code = program.format(url=stand_in.url, key=KEY, model=BOXES, path=str(path))
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_program_that_leaves_its_stream_open_ends(tmp_path):
    """It does not wait for ever, and the session is deleted."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        assert ran(LEFT_OPEN, stand_in, path) == ["detect"]
        assert len(stand_in.deleted) == 1


def test_a_program_that_leaves_its_client_open_ends_without_a_thread():
    """A name was looked up in threads, which end though none begins any more, as in Python 3.12."""
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        assert ran(LEFT_WITH_A_NAME, stand_in) == ["ok"]


def test_a_forked_process_has_no_client():
    """A call says so, in place of waiting for a thread that is not there; the parent's goes on."""
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        said = ["the client belongs to the process that made it", "3 ok"]
        assert ran(FORKED, stand_in) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": -1.0}, "timeout must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"url": "http://127.0.0.1:1/?x=1"}, "ends with its path"),
        ({"url": "http://ada:pa55@127.0.0.1:1", "api_key": "k"}, "so leave one out"),
    ],
)
def test_arguments_that_mean_nothing(given, said):
    """A time without a limit is None; what follows a path would be lost."""
    with pytest.raises(ValueError, match=said):
        Client(**given)


def test_a_path_begins_with_a_slash():
    """Otherwise it would be a part of the host's name, and the key would be sent to that host."""
    with connected_plainly(StandIn()) as client:
        for path in ("v1/health", ".example.org/v1/health"):
            with pytest.raises(ValueError, match="begins with /"):
                client.request("GET", path)

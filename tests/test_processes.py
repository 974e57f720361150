"""Child processes: messages, last words, and that none outlives its context or its server."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import zipfile

import msgspec
import psutil
import pytest

import child_targets
from api_answers import until
from mataserver.processes import child as processes
from mataserver.processes.child import replace_environment, run_process

CHILDREN = 10


def gone(pid):
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_messages_go_both_ways():
    """A function gets what is sent and its answers come back, until the input is closed."""
    async with run_process(child_targets.echo, ["one"]) as child:
        for number in range(3):
            await child.send({"number": number})
        child.close_input()
        said = [message async for message in child.messages(dict)]
        assert await child.wait() == 0
    assert said == [{"said": {"number": n}, "arguments": ["one"]} for n in range(3)]


async def test_the_end_of_a_child_finishes_its_files(tmp_path):
    """What is written to a file that only a cycle refers to is not lost, nor does one remain."""
    async with run_process(child_targets.leaving_cycles, [str(tmp_path)]) as child:
        assert await child.wait() == 0
    assert (tmp_path / "text").read_text() == "ten bytes\n"
    assert zipfile.ZipFile(tmp_path / "archive").namelist() == ["name"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["archive", "text"]


async def test_last_words_and_manners():
    """What a child prints is no message; the end of its standard error is kept; it steps back."""
    async with run_process(child_targets.noisy, nice=5, threads=2) as child:
        said = [message async for message in child.messages(dict)]
        assert await child.wait() == 1
        words = await child.last_words()
    assert said == [{"nice": min(os.nice(0) + 5, 19), "threads": "2"}]  # 19 is the last
    assert "RuntimeError: the last word\n" in words  # what it printed may come behind it
    assert len(words) <= 4096


async def test_a_log(tmp_path):
    """What a child prints is added to its log, behind what an earlier one printed."""
    log = tmp_path / "log"
    log.write_text("before\n")
    async with run_process(child_targets.noisy, log=log) as child:
        await child.wait()
    text = log.read_text()
    assert text.startswith("before\n")
    assert "x" * 10_000 in text
    assert "the last word" in text


async def test_the_end_of_the_context_ends_the_family():
    """A child and what it has started are gone when the context ends."""
    async with run_process(child_targets.family) as child:
        async for message in child.messages(dict):
            pids = message["pids"]
            break
        assert not any(map(gone, pids))
    await until(lambda: all(map(gone, pids)))


async def test_a_child_dies_with_its_server():
    """SIGKILL of the server ends its child."""
    async with run_process(child_targets.hosting) as server:
        async for message in server.messages(dict):
            child, orphan = message["pids"]
            break
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: gone(child))
    os.kill(orphan, signal.SIGKILL)


async def test_grace(tmp_path):
    """A child that has time to stop is asked first."""
    async with run_process(child_targets.polite, [str(tmp_path / "note")], grace=10.0) as child:
        async for _ in child.messages(dict):
            break
    assert (tmp_path / "note").read_text() == "left"


async def using(folder, used):
    """Run a child that takes half a second to end; add it to ``used`` once it is ready."""
    async with run_process(child_targets.reluctant, [str(folder / "note")], grace=10.0) as child:
        await anext(child.messages(dict))
        used.append(child)
        await asyncio.Event().wait()


async def test_a_user_that_is_cancelled_twice(tmp_path):
    """The child has its grace all the same, and none of it is left behind."""
    used = []
    user = asyncio.create_task(using(tmp_path, used))
    await until(lambda: used)
    for _ in range(3):
        user.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await user
    assert (tmp_path / "note").read_text() == "left"
    assert used[0]._process._transport.is_closing()


async def test_a_loop_that_ends_with_a_child(tmp_path):
    """The child is killed as the loop ends, which cancels its end, too."""
    used = []

    async def leave():
        user = asyncio.create_task(using(tmp_path, used))
        await until(lambda: used)
        user.cancel()
        await asyncio.sleep(0.1)  # its end has begun

    await asyncio.to_thread(asyncio.run, leave())
    await until(lambda: gone(used[0].pid))
    assert not (tmp_path / "note").exists()


async def test_modules_and_programs():
    """A module runs as ``python -m`` does, a program as it is."""
    async with run_process("child_targets", ["a", "b"]) as child:
        assert await child.output.read() == b"['a', 'b']\n"
        assert await child.wait() == 0
    async with run_process(
        ["sh", "-c", "echo $GIVEN; exit 3"], environment={"GIVEN": "x"}
    ) as child:
        assert await child.output.read() == b"x\n"
        assert await child.wait() == 3


async def test_many_children_at_once_leave_turns_to_other_work():
    """Each start holds the event loop up: between any two of them it goes round."""
    ready, counts = asyncio.Event(), [0]

    async def child():
        async with run_process(["sleep", "600"]):
            await ready.wait()

    starting = [asyncio.create_task(child()) for _ in range(CHILDREN)]
    before = len(psutil.Process().children())
    while counts[-1] < CHILDREN:
        await asyncio.sleep(0)
        counts.append(len(psutil.Process().children()) - before)
    ready.set()
    await asyncio.gather(*starting)
    assert max(later - earlier for earlier, later in itertools.pairwise(counts)) <= 2


async def test_the_environment_of_a_child(monkeypatch):
    """Variables are added and taken away; a program is not given the server's path of modules."""
    monkeypatch.setenv("TAKEN", "x")
    monkeypatch.setenv("PYTHONPATH", "/own")
    told = ["sh", "-c", 'echo "$GIVEN,$TAKEN,$PYTHONPATH"']
    async with run_process(told, environment={"GIVEN": "y", "TAKEN": None}) as child:
        assert await child.output.read() == b"y,,/own\n"
    async with run_process(
        told, environment=replace_environment({"PATH": os.environ["PATH"]})
    ) as child:
        assert await child.output.read() == b",,\n"


async def test_errors_among_the_output():
    """What a child prints to standard error may stand in its output, in order."""
    script = "echo one; echo two >&2; echo three"
    async with run_process(["sh", "-c", script], log="output") as child:
        assert await child.output.read() == b"one\ntwo\nthree\n"
        assert await child.last_words() == ""


async def test_the_signal_that_asks_a_child_to_end():
    """A child may be asked by another signal; what is not read of its output holds nothing up."""
    script = "trap 'echo stopped >&2; exit 0' INT; seq 100000; while :; do sleep 0.05; done"
    async with run_process(["bash", "-c", script]) as child:
        await child.output.readline()
        await child.end(10.0, signal.SIGINT)
        assert await child.wait() == 0
        assert await child.last_words() == "stopped\n"


async def test_what_a_child_leaves_behind_does_not_hold_its_end_up(monkeypatch):
    """A process that left the group and keeps the pipes open is not waited for."""
    monkeypatch.setattr(processes, "PIPE_SECONDS", 0.2)
    async with run_process(child_targets.leaving) as child:
        async for message in child.messages(dict):
            left = message["pid"]
            break
    assert not gone(left)
    os.kill(left, signal.SIGKILL)


async def test_what_is_no_message():
    """Garbage is refused where the messages are read."""
    async with run_process(["echo", "no JSON"]) as child:
        with pytest.raises(msgspec.DecodeError):
            _ = [message async for message in child.messages(dict)]


async def test_a_program_that_is_not_there():
    """What cannot be run ends at once, and its last words say why."""
    async with run_process(["no-such-program"]) as child:
        assert await child.wait() == 1
        assert "FileNotFoundError" in await child.last_words()


async def test_local_functions_are_refused():
    """A child finds a function by its name, so it must have one."""
    with pytest.raises(ValueError, match="top level"):
        async with run_process(lambda _parent: None):
            pass

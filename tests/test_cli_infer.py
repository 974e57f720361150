"""``mataserver infer`` and ``ps`` against a real server, and ``serve --open``."""

from __future__ import annotations

import json
import os
import re
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from camera_sources import make_video
from cli_terminal import Terminal, serving
from conftest import picture, register
from mataserver.cli.loaded import _ago

PICTURES = Path(__file__).parents[1] / "examples" / "pictures"
MODELS = {"fake-detect": "detect", "fake-segment": "segment", "fake-depth": "depth"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server with the fake models; one for the module."""
    with pytest.MonkeyPatch.context() as patch:
        terminal = Terminal(tmp_path_factory.mktemp("serve"), patch)
        terminal.install("fake-dist", mataserver={"fake": "mataserver.testing:fake"})
        register(terminal.data, {**MODELS, "fake-track": "track"})
        patch.setenv("MATA_SERVER_ENGINE", "thread")
        with serving(terminal) as server:
            yield terminal, server


@pytest.fixture
def ask(running, tmp_path, monkeypatch):
    """Run a command against the server, in an empty folder; with ``picture.png`` in it."""
    terminal = Terminal(tmp_path, monkeypatch)
    monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(running[0].data))
    (tmp_path / "picture.png").write_bytes(picture())

    def run(command, *arguments):
        return terminal.run(command, *map(str, arguments), "--url", running[1].url)

    return run


def lines(result):
    """Return the JSON objects that a command printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# infer


def test_a_picture(ask):
    """A picture's answer is one line of JSON that names the file."""
    (answer,) = lines(ask("infer", "fake-detect", "picture.png"))
    assert answer["file"] == "picture.png"
    assert (answer["task"], answer["model"]) == ("detect", "fake-detect")
    assert answer["detections"][0] == {
        "label": "64x48",
        "confidence": 0.9,
        "bbox": [10.0, 8.0, 30.0, 28.0],
    }


def test_parameters(ask):
    """Parameters are names with values as JSON or text, or one object; wrong ones are refused."""
    every = lines(ask("infer", "fake-detect", "picture.png", "-p", "confidence=.2"))
    assert len(every[0]["detections"]) == 2
    given = '{"confidence": 0.95}'
    (answer,) = lines(ask("infer", "fake-detect", "picture.png", "--params", given))
    assert answer["detections"] == []
    wrong = ask("infer", "fake-detect", "picture.png", "-p", "confidense=1")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    said = "confidense: unknown parameter; did you mean confidence?"
    assert wrong.stderr == f"error: {said}\n"
    text = ask("infer", "fake-detect", "picture.png", "-p", "behave=fly")
    assert text.stderr.startswith("error: behave: invalid enum value 'fly'")
    far = ask("infer", "fake-detect", "picture.png", "-p", "confidence=9")
    assert far.stderr.startswith("error: confidence: expected `float` <= 1.0")
    assert ask("infer", "fake-detect", "picture.png", "-p", "confidence").exit_code == 2


@pytest.mark.parametrize("model", ["fake-detect", "fake-segment", "fake-depth"])
def test_a_drawn_picture(ask, tmp_path, model):
    """With -o the picture is written with what was found, in the format of its name."""
    lines(ask("infer", model, "picture.png", "-o", "made/out.webp"))
    with Image.open(tmp_path / "made" / "out.webp") as drawn:
        assert (drawn.format, drawn.size) == ("WEBP", (64, 48))
        before = np.asarray(Image.open(tmp_path / "picture.png")).astype(int)
        assert np.abs(np.asarray(drawn.convert("RGB")) - before).max() > 60


def test_a_folder(ask, tmp_path):
    """Of a folder every picture is served, and drawn into another folder or by a pattern."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b.jpg", "a.png", "notes.txt"):
        (folder / name).write_bytes(picture(form="JPEG" if name == "b.jpg" else "PNG"))
    answers = lines(ask("infer", "fake-detect", folder, "-o", "out/"))
    assert [Path(each["file"]).name for each in answers] == ["a.png", "b.jpg"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg"]
    lines(ask("infer", "fake-detect", folder, "-o", "seen/{number}-{name}.png"))
    assert sorted(each.name for each in (tmp_path / "seen").iterdir()) == ["0-a.png", "1-b.png"]


def test_one_bad_file_among_good_ones(ask, tmp_path):
    """A file that is no picture is an error of its own; the others are served."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = ask("infer", "fake-detect", "broken.png", "picture.png")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["file"] == "picture.png"
    assert result.stderr.startswith("error: broken.png: image cannot be decoded")
    assert result.stderr.endswith("error: 1 of 2 files could not be served\n")


def test_a_file_that_cannot_be_read(ask):
    """Its device fails, and no output: the others are served. Such an error names no file."""
    result = ask("infer", "fake-detect", "/proc/self/mem", "picture.png")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["file"] == "picture.png"
    told = "error: /proc/self/mem: Input/output error\nerror: 1 of 2 files could not be served\n"
    assert result.stderr == told


def test_drawings_on_a_full_disk(ask, running, tmp_path):
    """They are the output too: it is told once, and is no fault of the pictures."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "picture.png").symlink_to("/dev/full")
    (tmp_path / "two.png").write_bytes(picture())
    terminal = Terminal.__new__(Terminal)
    ran = terminal.finish(
        "infer", "fake-detect", "picture.png", "two.png", "-o", "out/", "--url", running[1].url
    )
    assert ran.returncode == 1
    assert ran.stderr == "error: the output cannot be written: No space left on device\n"
    assert not (tmp_path / "out" / "two.png").exists()


def test_a_reader_that_left(ask, running):
    """When nobody reads the output any more, as after ``| head``, the command ends silently."""
    reading, writing = os.pipe()
    os.close(reading)
    terminal = Terminal.__new__(Terminal)
    url = running[1].url
    asked = Terminal.start(
        terminal, "infer", "fake-detect", "picture.png", "--url", url, stdout=writing
    )
    os.close(writing)
    assert asked.communicate() == (None, "")
    assert asked.returncode == 1


def test_an_output_that_is_full(ask, running):
    """It is told once, and is no fault of the pictures."""
    terminal = Terminal.__new__(Terminal)
    two = ["picture.png", "picture.png"]
    with Path("/dev/full").open("w") as full:
        asked = Terminal.start(
            terminal, "infer", "fake-detect", *two, "--url", running[1].url, stdout=full
        )
        _, said = asked.communicate()
    assert said == "error: the output cannot be written: No space left on device\n"
    assert asked.returncode == 1


def test_errors_that_concern_every_file_end_it(ask):
    """A misspelt model or a wrong key is told once."""
    result = ask("infer", "fake-detct", "picture.png", "picture.png")
    said = "Model not found: fake-detct; did you mean fake-detect?"
    assert (result.exit_code, result.output) == (1, f"error: {said}\n")
    wrong = ask("infer", "fake-detect", "picture.png", "--api-key", "wrong")
    assert wrong.output.startswith("error: Invalid API key (the key is that of --api-key; ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.png"], "'nothing.png' does not exist"),
        (["picture.png", "picture.png", "-o", "one.png"], "-o names one file, and there are 2"),
        (["picture.png", "-o", "picture.png"], "picture.png would be overwritten"),
        (["picture.png", "-o", "out.txt"], "out.txt cannot be written"),
        (["picture.png", "-o", "{stem}.png"], "unknown {stem}: there are name and number"),
        (["picture.png", "-o", "{name.png"], "-o: "),
        (["picture.png", "copy.png", "-o", "out-{name:.1}.png"], None),
        (["picture.png", "more/picture.png", "-o", "out/"], "two files would be written to out/"),
        (["picture.png", "-p", '{"confidence"'], '--params: not a JSON object: {"confidence"'),
        (["empty"], "empty holds no picture and no video"),
        (["picture.png", "--task", "track"], "--task is for videos"),
    ],
)
def test_wrong_usage(ask, tmp_path, arguments, said):
    """What cannot be asked or written is told before anything is sent."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    for name in ("copy.png", "more/picture.png"):
        (tmp_path / name).write_bytes(picture())
    result = ask("infer", "fake-detect", *arguments)
    assert result.exit_code == (2 if said else 0)
    assert (said or "") in result.stderr


def test_a_name_without_a_suffix_is_a_folder(ask, tmp_path):
    """``-o drawn`` writes what ``-o drawn/`` would, for one picture and for several."""
    (tmp_path / "copy.png").write_bytes(picture())
    assert ask("infer", "fake-detect", "picture.png", "-o", "one").exit_code == 0
    assert ask("infer", "fake-detect", "picture.png", "copy.png", "-o", "both").exit_code == 0
    written = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.glob("*/*.png"))
    assert written == ["both/copy.png", "both/picture.png", "one/picture.png"]


def decoded(file):
    """Return the frames of a video."""
    with av.open(str(file)) as container:
        return list(container.decode(video=0))


def test_a_video(ask, tmp_path):
    """Each frame of a video is a line with its number and time; -o writes the video again."""
    make_video(tmp_path / "shelf.mp4")
    answers = lines(ask("infer", "fake-detect", "shelf.mp4", "-o", "found.mp4"))
    assert [each["frame"] for each in answers] == list(range(10))
    assert [each["seconds"] for each in answers[:3]] == [0.0, 0.04, 0.08]
    made, given = decoded(tmp_path / "found.mp4"), decoded(tmp_path / "shelf.mp4")
    assert [round(frame.time, 3) for frame in made] == [round(frame.time, 3) for frame in given]
    pairs = zip(made, given, strict=True)
    changes = [
        np.abs(a.to_ndarray(format="rgb24").astype(int) - b.to_ndarray(format="rgb24")).max()
        for a, b in pairs
    ]
    assert min(changes) > 60


def test_a_video_with_tracks_as_pictures(ask, tmp_path):
    """A video keeps a tracker's state from frame to frame; a numbered pattern gives pictures."""
    make_video(tmp_path / "shelf.mp4", count=3)
    answers = lines(ask("infer", "fake-track", "shelf.mp4", "-o", "frames/{name}-{number}.png"))
    assert [each["detections"][0]["track_id"] for each in answers] == [1, 2, 3]
    made = sorted(each.name for each in (tmp_path / "frames").iterdir())
    assert made == ["shelf-0.png", "shelf-1.png", "shelf-2.png"]


def test_a_broken_video(ask, tmp_path):
    """A file that is no video says so, and leaves no file behind."""
    (tmp_path / "shelf.mp4").write_bytes(b"no video")
    result = ask("infer", "fake-detect", "shelf.mp4", "-o", "found.mp4")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: shelf.mp4: it is no video, or damaged")
    assert not (tmp_path / "found.mp4").exists()


def test_damaged_frames_of_a_video_are_told(ask, tmp_path):
    """They are left out, and the other frames keep their times; a warning says how many."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    with av.open(str(tmp_path / "shelf.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(noise)
            frame.pts = number
            for whole in encoder.encode(frame):
                kept = len(bytes(whole)) // (2 if number in {2, 3} else 1)
                packet = av.Packet(bytes(whole)[:kept])
                packet.pts = packet.dts = number
                packet.time_base, packet.stream = Fraction(1, 25), stream
                packet.is_keyframe = True
                container.mux(packet)
    result = ask("infer", "fake-detect", "shelf.mkv")
    assert [each["seconds"] for each in lines(result)] == [0.0, 0.04, 0.16, 0.2]
    assert result.stderr == ("warning: shelf.mkv: frames left out because they are damaged: 2\n")


def test_a_video_without_pyav(ask, tmp_path):
    """Without the package that reads videos the command says what to install."""
    terminal = Terminal.__new__(Terminal)
    (tmp_path / "site" / "av.py").write_text("raise ModuleNotFoundError(name='av')")
    (tmp_path / "shelf.mp4").write_bytes(b"")
    ran = Terminal.finish(
        terminal, "infer", "fake-detect", "shelf.mp4", "--url", "http://127.0.0.1:1"
    )
    assert ran.returncode == 1
    assert ran.stderr == "error: a video needs a package: pip install 'av>=18.1,<20'\n"


# ps


def test_ps(ask):
    """What is in memory is listed with its state and memory, as a table and as JSON."""
    lines(ask("infer", "fake-detect", "picture.png"))
    ask("stop", "fake-depth")
    header, *rows = ask("ps").stdout.splitlines()
    columns = ["MODEL", "TASK", "STATE", "MEMORY", "(MB)", "QUEUE", "SESSIONS", "LAST", "USED"]
    assert header.split() == columns
    (row,) = [each.split() for each in rows if each.startswith("fake-detect ")]
    assert (row[1:3], row[4:6], row[-1]) == (["detect", "idle"], ["0", "0"], "ago")
    assert not any(each.startswith("fake-depth") for each in rows)
    found = json.loads(ask("ps", "--json", "--all").stdout)
    states = {each["model"]: each["state"] for each in found}
    assert (states["fake-detect"], states["fake-depth"]) == ("idle", "unloaded")
    (fake,) = [each for each in found if each["model"] == "fake-detect"]
    assert (fake["queue"], fake["sessions"], fake["error"]) == (0, 0, None)
    assert fake["memory_mb"] > 0
    assert abs(fake["last_used"] - time.time()) < 60


def test_ps_counts_sessions(ask, running):
    """A session counts for its model."""
    from mataserver_client import Client

    key = (running[0].data / "api_key").read_text().strip()
    with Client(running[1].url, key) as client:
        session = client.create_session("fake-segment")
        found = json.loads(ask("ps", "--json").stdout)
        assert [e["sessions"] for e in found if e["model"] == "fake-segment"] == [1]
        client.delete_session(session.session_id)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7_300, "2 h ago")]
)
def test_times_in_words(seconds, said):
    """How long ago something was is told in its largest unit."""
    assert _ago(seconds) == said


# serve --open


def test_the_browser_is_opened(tmp_path, monkeypatch):
    """``--open`` opens the page, with the key, in the browser that is set."""
    terminal = Terminal(tmp_path, monkeypatch)
    browser = tmp_path / "browser"
    browser.write_text(
        '#!/bin/sh\nprintf %s "$1" > "$0.opened.tmp"; mv "$0.opened.tmp" "$0.opened"\n'
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with serving(terminal, "--open") as server:
        opened = tmp_path / "browser.opened"
        until = time.monotonic() + 30
        while not opened.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        key = (terminal.data / "api_key").read_text().strip()
        assert re.fullmatch(rf"{server.url}/#code=[\w-]{{43}}", opened.read_text())
        assert key not in opened.read_text()


def test_no_browser_is_told(tmp_path, monkeypatch):
    """Without a screen the log says where the page is, and not the key."""
    terminal = Terminal(tmp_path, monkeypatch)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    with serving(terminal, "--open") as server:
        until = time.monotonic() + 30
        while "no browser could be opened" not in server.log:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert f"open {server.url}/ yourself" in server.log
        assert "#code=" not in server.log

"""The examples, each run as its reader would, against a server that runs config.yaml."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest

from mataserver import testing

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PICTURES = EXAMPLES / "pictures"
CODES = {"PALLET-0042", "https://example.org/item/7", "Aisle 5, shelf C"}
KEY = "of-the-test"
# Whoever tries to leave this machine is refused at once.
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "127.0.0.1:9")


@contextlib.contextmanager
def started(command, variables, cwd):
    """Run a program that prints the URL it listens on; yield the URL."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.PIPE, text=True)
    try:
        words = (word for line in process.stdout for word in line.split())
        yield next(word for word in words if word.startswith("http://"))
    finally:
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        process.stdout.close()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server with the example configuration, on a free port, cut off from the network."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mataserver", "serve", "--config", ROOT / "config.yaml"]
    variables = {
        **OFFLINE,
        "MATA_SERVER_DATA_DIR": str(folder / "data"),
        "MATA_SERVER_PORT": "0",
        "MATA_SERVER_API_KEY": KEY,
        "MATA_SERVER_CAMERA_PATHS": "/",
    }
    with started([*command, "--port", "0"], variables, folder) as at:
        yield at


def run(url, *command):
    """Run an example; return what it printed."""
    variables = {"MATA_SERVER_URL": url, "MATA_SERVER_API_KEY": KEY}
    ran = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def python(url, name, *arguments):
    """Run an example in Python; return what it printed."""
    return run(url, sys.executable, EXAMPLES / name, *arguments)


def test_examples_are_short():
    """One idea a file, and no file over 72 lines; the demo is the one tour of everything."""
    for file in EXAMPLES.iterdir():
        if file.is_file() and file.name != "demo.py":
            assert len(file.read_text().splitlines()) <= 72, file.name


def test_the_example_configuration_gets_ready_without_a_network(url):
    """The server of config.yaml gets ready, lists its three models, and no plugin is broken."""

    def ask(path):
        request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {KEY}"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code

    while ask("/ready") == 503:
        time.sleep(0.1)
    told = ask("/ready")
    assert told.pop("device").startswith("CPU (")  # this and the next: of the plugin reconstruct
    assert told.pop("matchers")["sift"] == "ready"
    assert told == {"status": "ready"}
    states = {model["model"]: model["state"] for model in ask("/v1/models")}
    assert sorted(states) == ["opencv-faces", "opencv-qr", "rapidocr"]
    assert states["opencv-qr"] in {"ready", "idle"}
    assert not any("error" in plugin for plugin in ask("/v1/plugins"))


def test_rest_with_curl(url):
    """Every way to send a picture finds the three codes, and the last request is refused."""
    printed = run(url, "bash", EXAMPLES / "rest_curl.sh", url)
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    found = [{d["label"] for d in each["detections"]} for each in answers if "detections" in each]
    assert found == [CODES, CODES, CODES]
    assert re.search(r"^Server-Timing: decode;dur=", printed, re.MULTILINE)
    assert answers[-1]["detail"].endswith("threshold: unknown parameter; use 'confidence'")


@pytest.mark.parametrize(
    ("model", "picture", "expected"),
    [
        ("opencv-qr", "codes.jpg", CODES),
        ("opencv-faces", "astronaut.jpg", {"face"}),
        ("rapidocr", "receipt.jpg", set()),
    ],
)
def test_infer(url, model, picture, expected):
    """The Python client's answer is printed for each of the three models."""
    printed = python(url, "infer.py", model, PICTURES / picture, "confidence=0.5")
    lines = re.findall(r"^[01]\.\d\d (.*) \[.*\]$", printed, re.MULTILINE)
    assert set(lines) == expected
    assert lines or "TOTAL" in printed.upper()


def test_infer_tells_of_errors(url):
    """An error of the API is one line and exit status 1."""
    command = [sys.executable, EXAMPLES / "infer.py", "nobody", PICTURES / "codes.jpg"]
    variables = {**os.environ, "MATA_SERVER_URL": url, "MATA_SERVER_API_KEY": KEY}
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "404: Model not found: nobody\n")


ARGUMENTS = {
    "infer.py": ("opencv-qr", "{file}"),
    "draw_supervision.py": ("opencv-qr", "{file}", "{out}"),
    "stream_camera.py": ("opencv-qr", "{file}", "{out}"),
    "watch_camera.py": ("opencv-qr", "{file}", "{out}"),
    "sam_image.py": ("{file}", "{out}", "a code"),
    "sam_video.py": ("{file}", "{out}", "a code"),
    "reconstruct.py": ("{file}", "{out}"),
    "annotate_video.py": ("opencv-qr", "{file}"),
    "browser.py": ("opencv-qr", "0"),
}


def failure(url, name, *arguments, key=KEY):
    """Run an example that has to fail; return the one line that it says."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    if name.endswith(".sh"):
        command = ["bash", EXAMPLES / name, url]
    variables = {**os.environ, "MATA_SERVER_URL": url, "MATA_SERVER_API_KEY": key}
    ran = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (line,) = ran.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "browser.py"])
def test_a_misspelt_file_is_one_line(url, tmp_path, name):
    """A file that is not there is told in one line, with its name and the status 1."""
    places = {"file": tmp_path / "mispelt.jpg", "out": tmp_path / "out.png"}
    arguments = [each.format(**places) for each in ARGUMENTS[name]]
    line = failure(url, name, *arguments)
    assert "mispelt.jpg" in line or "camera" in line.lower()
    assert "Traceback" not in line


@pytest.mark.parametrize("name", [*ARGUMENTS, "rest_curl.sh"])
def test_a_missing_key_is_one_line(url, video, tmp_path, name):
    """Without a key each example says so in one line and ends with 1."""
    picture = video if "video" in name or "camera" in name else PICTURES / "codes.jpg"
    places = {"file": picture, "out": tmp_path / "out.mp4"}
    arguments = [each.format(**places) for each in ARGUMENTS.get(name, ())]
    line = failure(url, name, *arguments, key="")
    assert re.match(r"401: |MATA_SERVER_API_KEY is not set", line), line


@pytest.mark.parametrize("name", [*ARGUMENTS, "rest_curl.sh"])
def test_no_server_is_one_line(video, tmp_path, name):
    """Where nothing listens each example says so in one line and ends with 1."""
    picture = video if "video" in name or "camera" in name else PICTURES / "codes.jpg"
    places = {"file": picture, "out": tmp_path / "out.mp4"}
    arguments = [each.format(**places) for each in ARGUMENTS.get(name, ())]
    assert "Traceback" not in failure("http://127.0.0.1:9", name, *arguments)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_missing_arguments_are_one_line(url, name):
    """Without arguments the usage is told."""
    assert failure(url, name).startswith(f"usage: python examples/{name} ")


NEEDS = {
    "watch_camera.py": "pip install ./plugins/cameras",
    "sam_image.py": "pip install ./plugins/sam",
    "sam_video.py": "pip install ./plugins/sam",
    "reconstruct.py": "pip install ./plugins/{database,jobs,reconstruct}",
    "annotate_video.py": "pip install ./plugins/database ./plugins/jobs",
}


async def test_a_plugin_that_is_not_there_is_one_line_that_installs_it(data_dir, video, tmp_path):
    """Without the plugin that an example needs it tells how to install it, and ends with 1."""
    places = {"file": video, "out": tmp_path / "out.mp4"}
    async with testing.serving(data_dir, engine="thread") as served:
        for name, install in NEEDS.items():
            arguments = [each.format(**places) for each in ARGUMENTS[name]]
            line = await asyncio.to_thread(failure, served.url, name, *arguments, key=served.key)
            assert line.startswith("404: "), line
            assert install in line


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("draw_supervision.py", ("opencv-qr", "{file}", "{out}.foo"), "unknown file extension"),
        ("draw_supervision.py", ("rapidocr", "{file}", "{out}.png"), "holds no detections"),
        ("draw_supervision.py", ("opencv-qr", "{file}", "/nowhere/out.png"), "/nowhere/out.png"),
        ("browser.py", ("opencv-qr", "http"), "http: a port is a number up to 65535"),
        ("browser.py", ("opencv-qr", "70000"), "70000: a port is a number up to 65535"),
        ("browser.py", ("opencv-qr", "{taken}"), "in use"),
        ("stream_camera.py", ("opencv-qr", "99999999999999"), "no such camera"),
        ("annotate_video.py", ("opencv-qr", "{file}", "{out}.mp4"), "not a file"),
    ],
)
def test_what_cannot_be_is_one_line(url, tmp_path, name, arguments, told):
    """An output, a model or a port that does not fit is told in one line, with the status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {
            "file": PICTURES / "codes.jpg",
            "out": tmp_path / "out",
            "taken": taken.getsockname()[1],
        }
        line = failure(url, name, *(each.format(**places) for each in arguments))
    assert told in line


def test_no_camera_is_one_line(url, tmp_path):
    """A camera that is not there is told in one line."""
    line = failure(url, "stream_camera.py", "opencv-qr", "63", tmp_path / "out.mp4")
    assert line == "63: no such camera, or it cannot be read"


@pytest.fixture
def video(tmp_path):
    """A video of 20 frames: the code picture, sliding."""
    picture = cv2.resize(cv2.imread(str(PICTURES / "codes.jpg")), (640, 280))
    path = tmp_path / "codes.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15, (640, 280))
    for number in range(20):
        writer.write(np.roll(picture, number, axis=1))
    writer.release()
    return path


def test_stream_camera(url, video, tmp_path):
    """A video goes through the stream; what was found is drawn into the new video."""
    target = tmp_path / "found.mp4"
    printed = python(url, "stream_camera.py", "opencv-qr", video, target)
    answered = [int(line.split()[0]) for line in printed.splitlines()]
    assert "PALLET-0042" in printed
    assert answered == sorted(set(answered))
    capture = cv2.VideoCapture(str(target))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    _, frame = capture.read()
    capture.release()
    assert frames == len(answered)
    blue, green, red = (frame[:, :, channel].astype(int) for channel in range(3))
    assert ((red > 180) & (green < 110) & (blue < 110)).sum() > 100


def test_watch_camera(url, video, tmp_path):
    """The server reads a video itself; its results are printed, and the picture has their boxes."""
    target = tmp_path / "seen.jpg"
    printed = python(url, "watch_camera.py", "opencv-qr", video, target)
    *found, saved = printed.splitlines()
    assert len(found) == 20
    assert "PALLET-0042" in printed
    assert saved == f"saved {target}"
    assert cv2.imread(str(target)).shape == (280, 640, 3)


def test_annotate_video(url, video, tmp_path):
    """A video is a job's; what was found is counted, and stands in every frame of the new one."""
    target = tmp_path / "made" / "annotated.mp4"
    printed = python(url, "annotate_video.py", "opencv-qr", video, target.parent)
    counted = dict(reversed(line.split(maxsplit=1)) for line in printed.splitlines()[-3:])
    assert set(counted) == CODES
    assert int(counted["PALLET-0042"]) > 10
    capture = cv2.VideoCapture(str(target))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1].astype(int))
    capture.release()
    assert len(frames) == 20
    for frame in frames:  # the codes are black on white: what has a colour was drawn
        assert frame.shape == (280, 640, 3)
        assert (frame.max(axis=-1) - frame.min(axis=-1) > 80).sum() > 400


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(url, tmp_path):
    """The address of a Chromium page that shows what ``browser.py`` serves, for its debugger."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"MATA_SERVER_URL": url, "MATA_SERVER_API_KEY": KEY}
    example = [sys.executable, EXAMPLES / "browser.py", "opencv-qr", str(port)]
    with started(example, variables, tmp_path) as served:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        command += [f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", served]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            lines = (re.search(r"ws://([\d.:]+)/", line) for line in process.stderr)
            debugger = next(found[1] for found in lines if found)
            yield f"http://{debugger}/json", served
        finally:
            process.terminate()
            process.stderr.read()
            process.stderr.close()
            process.wait(timeout=30)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
async def test_browser(page):
    """In a real browser the page streams its (made-up) camera and is answered frame by frame."""
    debugger, served = page
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        async with http.get(debugger) as answer:
            (tab,) = [each for each in await answer.json() if each["url"].startswith(served[:20])]
        async with http.ws_connect(tab["webSocketDebuggerUrl"]) as browser:
            status = ""
            while not re.fullmatch(r"frame [1-9]\d*: [\d.]+ ms", status):
                question = {"expression": "document.querySelector('#status')?.textContent ?? ''"}
                asked = {"id": 1, "method": "Runtime.evaluate", "params": question}
                await browser.send_json(asked)
                status = (await browser.receive_json())["result"]["result"]["value"]
                assert "closed" not in status
                await asyncio.sleep(0.05)

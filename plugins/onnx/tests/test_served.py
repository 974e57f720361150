"""The whole way: registered files, served by child processes, asked over REST."""

from __future__ import annotations

import contextlib
import io
import json
import re
import urllib.request
from pathlib import Path

import aiohttp
import psutil
import pytest
from PIL import Image

from cli_terminal import Server, Terminal
from mataserver import testing
from mataserver_onnx.families import FAMILIES
from own_processes import descendants, workers

BOX = (32, 16, 48, 120)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


async def ask(server, model, image, **params):
    """POST a picture; return the status and the decoded answer."""
    async with (
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.post(
            "/v1/infer",
            params={"model": model, **params},
            data=png(image),
            headers={"Content-Type": "image/png"},
        ) as answer,
    ):
        return answer.status, await answer.json()


def libraries(pid):
    """The names of the files that a process has mapped."""
    return {Path(each.path).name for each in psutil.Process(pid).memory_maps()}


async def test_a_worker_is_quiet(planted, picture, tmp_path, capfd):
    """ONNX Runtime pins no thread, which a worker may not: no request has it complain."""
    path = planted.yolo_v8(tmp_path / "found.onnx", names="{0: 'a', 1: 'crate', 2: 'c'}")
    models = [{"model": "found", "task": "detect", "path": str(path)}]
    async with testing.serving(
        tmp_path, entry_points=testing.installed("onnx"), engine="process", models=models
    ) as server:
        status, _ = await ask(server, "found", picture(128, 160, BOX))
    assert status == 200
    assert "affinity" not in "".join(capfd.readouterr())


async def test_the_serving_process_has_no_torch(planted, picture, classifier, photo, tmp_path):
    """Workers of both runtimes hold no torch and no transformers, only what they run on."""
    path = planted.yolo_v8(tmp_path / "found.onnx", names="{0: 'a', 1: 'crate', 2: 'c'}")
    models = [
        {"model": "found", "task": "detect", "path": str(path)},
        {"model": "export", "task": "classify", "path": str(classifier())},
    ]
    settings = {"models": {"export": {"runtime": "openvino"}}}
    async with testing.serving(
        tmp_path,
        entry_points=testing.installed("hf", "onnx"),
        engine="process",
        models=models,
        plugins={"onnx": settings},
    ) as server:
        status, found = await ask(server, "found", picture(128, 160, BOX))
        assert (status, found["detections"][0]["label"]) == (200, "crate")
        assert found["detections"][0]["bbox"] == pytest.approx(BOX, abs=1e-3)
        status, named = await ask(server, "export", photo)
        assert (status, len(named["classifications"])) == (200, 3)
        mapped = {name for worker in workers() for name in libraries(worker.pid)}
    text = " ".join(sorted(mapped))
    assert "onnxruntime_pybind11_state" in text
    assert "libopenvino.so" in text
    assert not any(
        word in text for word in ("libtorch", "torch_python", "safetensors", "tokenizers")
    )


@pytest.mark.parametrize("engine", ["process", "thread"])
def test_no_process_imports_a_framework(engine, classifier, photo, tmp_path, monkeypatch):
    """Neither a server with every plugin installed nor its workers import torch or transformers.

    Each interpreter tells its imports; the server answers a picture before it ends.
    """
    terminal = Terminal(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("MATA_SERVER_AUTH_MODE", "none")
    (tmp_path / "mataserver.yaml").write_text(
        f"engine: {engine}\nmodels: [{{model: net, task: classify, path: {classifier()}}}]\n"
    )
    server = Server(terminal)
    try:
        request = urllib.request.Request(
            f"{server.url}/v1/infer?model=net", png(photo), {"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())["classifications"]
        mapped, commands = [], []
        for pid in (server.process.pid, *server.family()):
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):  # it ended just now
                mapped.append(libraries(pid))
                commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    finally:
        server.end()
    told = re.findall(r"^import time:.*\|\s+(\w+)[\w.]*$", server.log, re.MULTILINE)
    assert len(found) == 3
    # A plugin's service may have a child of its own, which is none of the model's; one that has
    # ended and is still to be waited for has no command.
    others = [each for each in commands if b"child_main" in each and b"engines.zygote" not in each]
    own = [each for each in commands if each and each not in others]
    assert len(own) == (1 if engine == "thread" else 3)
    assert {"aiohttp", "mataserver_hf", "mataserver_onnx", "onnxruntime"} <= set(told)
    assert not {"torch", "transformers", "tensorflow", "safetensors"} & set(told)
    assert any("onnxruntime_pybind11_state" in " ".join(names) for names in mapped)
    assert not any("libtorch" in " ".join(names) for names in mapped)


async def test_turned_boxes_and_poses_cross_the_wire(planted, exports, picture, tmp_path):
    """A turned box brings its corners, an upright one nothing more, and a pose its keypoints."""
    names = {"YOLO26": "detect", "YOLO26-obb": "detect", "YOLO26-pose": "pose"}
    models = []
    for family in FAMILIES:
        if family.name in names:
            path = tmp_path / f"{family.name}.onnx"
            exports.network(planted, path, family, family.layouts[0])
            task = names[family.name]
            models.append({"model": family.name, "task": task, "path": str(path)})
    points = testing.installed("onnx", "track")
    async with testing.serving(tmp_path, entry_points=points, models=models) as server:
        upright, turned, posed = [
            (await ask(server, name, picture(128, 160, BOX)))[1] for name in names
        ]
    [plain], [box] = upright["detections"], turned["detections"]
    assert set(plain) == {"label", "confidence", "bbox"}
    assert [len(point) for point in box["extra"]["corners"]] == [2, 2, 2, 2]
    [person] = posed["keypoints"]
    assert (person["label"], len(person["keypoints"])) == ("crate", 17)


async def test_labels_of_the_settings_are_checked(planted, picture, tmp_path):
    """A wrong number of labels is told when the model is loaded."""
    path = planted.yolo_v8(tmp_path / "found.onnx")
    (tmp_path / "names.txt").write_text("crate\n")
    async with testing.serving(
        tmp_path,
        entry_points=testing.installed("onnx"),
        models=[{"model": "found", "task": "detect", "path": str(path)}],
        plugins={"onnx": {"models": {"found": {"labels": "names.txt"}}}},
    ) as server:
        status, answer = await ask(server, "found", picture(32, 48))
    assert status == 500
    assert "has 3 classes, but 1 labels are given" in answer["detail"]


async def test_a_network_that_does_not_fit(classifier, photo, tmp_path):
    """One that needs more memory than the server may use is a 507, and stays unloaded."""
    async with (
        testing.serving(
            tmp_path,
            entry_points=testing.installed("onnx"),
            models=[{"model": "net", "task": "classify", "path": str(classifier())}],
            max_ram_fraction=1e-4,
        ) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        status, answer = await ask(server, "net", photo)
        async with http.get("/v1/models/net") as told:
            state = (await told.json())["state"]
        left = descendants()
    assert (status, state, left) == (507, "unloaded", [])
    assert "memory" in answer["detail"]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("model.onnx.data", "model.onnx.data with the model's weights is missing"),
        ("model.onnx", "holds no weights"),
    ],
)
async def test_a_repository_that_is_not_whole(without, said, hub, classifier, tmp_path):
    """One whose weights, or whose network, lie elsewhere is refused by its pull, not registered."""
    names = {"config.json", "preprocessor_config.json", "model.onnx", "model.onnx.data"} - {without}
    hub.add("org/torn", {name: (classifier() / name).read_bytes() for name in names})
    async with (
        testing.serving(tmp_path, entry_points=testing.installed("onnx")) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        body = {"model": "org/torn", "task": "classify"}
        async with http.post("/v1/models/pull", json=body) as pull:
            status, answer = pull.status, await pull.json()
        async with http.get("/v1/models") as told:
            models = [each["model"] for each in await told.json()]
    assert (status, "org/torn" in models) == (400, False)
    assert said in answer["detail"]


async def test_a_hub_repository_is_pulled_and_served(hub, classifier, photo, tmp_path):
    """A repository with an ONNX file is served; one that holds none is not registered."""
    files = {f"onnx/{f.name}": f.read_bytes() for f in classifier().glob("model.onnx*")}
    names = ("config.json", "preprocessor_config.json")
    files |= {name: (classifier() / name).read_bytes() for name in names}
    hub.add("org/tiny", files)
    hub.add("org/no-onnx", {"config.json": files["config.json"], "model.safetensors": b"x" * 9})
    async with (
        testing.serving(tmp_path, entry_points=testing.installed("onnx")) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        pulled = []
        for model in ("org/tiny", "org/no-onnx"):
            body = {"model": model, "task": "classify"}
            async with http.post("/v1/models/pull", json=body) as pull:
                pulled.append((pull.status, await pull.json()))
        status, answer = await ask(server, "org/tiny", photo)
        missing, _ = await ask(server, "org/no-onnx", photo)
    assert [each for each, _ in pulled] == [202, 400]
    assert "No installed plugin serves" in pulled[1][1]["detail"]
    assert (status, missing) == (200, 404)
    assert answer["classifications"][0]["label"] in {"red", "green", "blue"}

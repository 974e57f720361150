"""Ultralytics' exports for OpenVINO: what they say of themselves lies in a file beside them."""

from __future__ import annotations

import os

import pytest
import yaml

import mataserver_onnx
from mataserver import MataError, ModelFiles
from mataserver_onnx import bundle, metadata_file
from mataserver_onnx.detect import DetectParams

BOX = (10, 20, 50, 44)
NOTES = {
    "description": "Ultralytics YOLOv8n model trained on coco.yaml",
    "author": "Ultralytics",
    "stride": 32,
    "task": "detect",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {0: "cat", 1: "crate", 2: "no"},
    "args": {"batch": 1, "half": False, "nms": False},
}


@pytest.fixture
def folder(planted, tmp_path):
    """A folder as Ultralytics writes it: the network is called as the weights were."""
    from mataserver_onnx.openvino_session import import_openvino

    openvino = import_openvino()
    made = tmp_path / "yolov8n_openvino_model"
    network = planted.yolo_v8(tmp_path / "yolov8n.onnx")
    openvino.save_model(openvino.Core().read_model(network), made / "yolov8n.xml")
    (made / "metadata.yaml").write_text(yaml.safe_dump(NOTES, sort_keys=False))
    return made


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_file_says_is_kept_until_it_changes(tmp_path, broken):
    """Each task asks, and a long one takes seconds: one that seems unchanged is not read again."""
    file = tmp_path / "metadata.yaml"

    def said():
        try:
            return metadata_file.read(tmp_path)["task"]
        except MataError as error:
            return error.detail

    file.write_text("task: [*a,b]\nstride: 32\n" if broken else "task: detect\nstride: 32\n")
    first, status = said(), file.stat()
    assert first == ("the model's metadata.yaml cannot be read" if broken else "detect")
    file.write_text("task: pose  \nstride: 32\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert said() == first
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert said() == "pose"


@pytest.mark.parametrize("name", ["", "yolov8n.xml"])
def test_the_names_of_classes_are_read(name, folder, load, picture):
    """Of a folder and of the file in it; before, classes were LABEL_0 and so on."""
    model = load(folder / name, "detect")
    [result] = model.predict([picture(64, 96, BOX)], [DetectParams()])
    [found] = result.detections
    assert found.label == "crate"
    assert found.bbox == pytest.approx(BOX, abs=0.1)
    assert model.labels[:3] == ["cat", "crate", "no"]


def test_a_folder_of_openvino_is_accepted(folder):
    """It is registered as what its notes say, and not without the weights."""
    [detect] = [each for each in mataserver_onnx.backends() if each.task == "detect"]
    settings = mataserver_onnx.settings()()
    given = ModelFiles(name="m", source="local", path=folder, settings=settings)
    assert detect.accepts(given)
    (folder / "yolov8n.bin").unlink()
    assert not detect.accepts(given)


def test_notes_against_the_outputs_are_refused(folder, load):
    """As in an ONNX file: a network of three classes is none of two."""
    (folder / "metadata.yaml").write_text(yaml.safe_dump(NOTES | {"names": {0: "cat", 1: "dog"}}))
    with pytest.raises(MataError, match="its metadata says task detect, names 2 classes"):
        load(folder, "detect")


def test_an_onnx_file_says_it_itself(planted, tmp_path):
    """The file beside it may be of another network."""
    planted.yolo_v8(tmp_path / "model.onnx", names="['a', 'b', 'c']")
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(NOTES))
    assert bundle.open_bundle(tmp_path).graph.metadata == {"names": "['a', 'b', 'c']"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task: detect\nnames: {0: a", "cannot be read"),
        ("stride: &a [x, x]\nnames: [*a, *a]", "cannot be read"),
        ("task: detect\nnames: !!python/object/apply:os.getpid []", "cannot be read"),
        ("stride: 32\ntask: detect\nnames: " + "[" * 50_000, "cannot be read"),
        ("stride: 32\ntask: detect\nnames: " + "x" * 2**18, "is too large"),
    ],
)
def test_a_file_of_theirs_that_cannot_be_used_is_told(content, said, tmp_path):
    """Nothing in it is run, and no alias stands for gigabytes of text."""
    (tmp_path / "metadata.yaml").write_text(content)
    with pytest.raises(MataError, match=said):
        metadata_file.read(tmp_path)
    assert metadata_file.read(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    "content",
    [
        "- cat",
        "",
        "a: 1\n---\nb: 2",
        "a: &a [x, x]\nb: [*a, *a]",
        "names: !!python/object/apply:os.getpid []",
        "names: " + "x" * 2**18,
        "[" * 50_000,
        "names: [one, two]\nlicense: mit",
        b"\xff\x00",
    ],
)
def test_a_file_of_another_program_is_passed_over(content, folder, load, picture, caplog):
    """The network is served as without it, and the log says so."""
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "metadata.yaml").write_bytes(raw)
    [detect] = [each for each in mataserver_onnx.backends() if each.task == "detect"]
    given = ModelFiles(name="m", source="local", path=folder, settings=mataserver_onnx.settings()())
    assert detect.accepts(given)
    [result] = load(folder, "detect").predict([picture(64, 96, BOX)], [DetectParams()])
    assert [found.label for found in result.detections] == ["LABEL_1"]
    assert "its metadata.yaml is passed over" in caplog.text

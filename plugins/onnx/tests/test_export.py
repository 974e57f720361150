"""Exports of real code: against torch, against onnxruntime by itself, and through the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from PIL import Image

from mataserver import MataError
from mataserver_onnx.classify import ClassifyParams
from mataserver_onnx.export import command, comparison, families, photos, tracing, trial

pytestmark = pytest.mark.long

TASKS = {
    "rt_detr": "detect",
    "vit": "classify",
    "segformer": "segment",
    "depth_anything": "depth",
    "clip": "embed",
}


@pytest.fixture(scope="module")
def opened(checkpoint):
    """``opened(name)`` is a checkpoint in torch."""

    def make(name):
        source = checkpoint(name)
        return tracing.Checkpoint(source, families.find(families.read_config(source), TASKS[name]))

    return make


def served(load, path, task, **options):
    """Load an export as the plugin does, and what leaves nothing of its answers out."""
    return load(path, task, **options), trial.BACKENDS[task][1]


@pytest.mark.parametrize("name", TASKS)
def test_an_export_answers_as_torch_does(name, exported, opened, load):
    """Boxes, classes, masks, depths and vectors of real photos, wide and tall, are torch's."""
    model, params = served(load, exported(name), TASKS[name])
    pictures = photos.read(None)
    figures = comparison.compare(opened(name), model, params, pictures, int8=False)
    assert len({picture.shape for picture in pictures}) == 3
    assert all(figure.passed for figure in figures), [str(figure) for figure in figures]


@pytest.mark.parametrize("name", ["vit", "depth_anything"])
def test_openvino_answers_as_torch_does(name, exported, opened, load):
    """So does what OpenVINO runs: its own files, and the ONNX file."""
    pictures = photos.read(None)
    places = [exported(name, "openvino"), exported(name)] if name == "vit" else [exported(name)]
    for path in places:
        model, params = served(load, path, TASKS[name], runtime="openvino")
        figures = comparison.compare(opened(name), model, params, pictures, int8=False)
        assert all(figure.passed for figure in figures), [str(figure) for figure in figures]


@pytest.mark.parametrize("name", TASKS)
def test_the_plugin_adds_nothing_to_the_network(name, exported, load, photo):
    """What is read from the network's outputs are exactly those of onnxruntime by itself."""
    model, _ = served(load, exported(name), TASKS[name])
    values, _ = model._network.preparation.prepare(photo)
    feeds = {"pixel_values": values[None]}
    session = onnxruntime.InferenceSession(
        exported(name) / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    [(_, outputs, _)] = model._network.run([photo])
    direct = dict(zip(names, session.run(None, feeds), strict=True))
    assert set(names) == set(families.FAMILIES[name, TASKS[name]].outputs)
    for name_of_output, output in zip(model._network.outputs, outputs, strict=True):
        assert np.abs(direct[name_of_output][0] - output).max() < 1e-5


@pytest.mark.parametrize("name", TASKS)
def test_batch_equals_single(name, exported, load, photo):
    """A batch of pictures of several sizes gives what they give one by one."""
    model, params = served(load, exported(name), TASKS[name])
    images = [photo, np.ascontiguousarray(photo[:, :200]), photo[::-1].copy()]
    batch = model.predict(images, [params] * 3)
    singles = [model.predict([image], [params])[0] for image in images]
    for together, alone in zip(batch, singles, strict=True):
        for one, other in zip(numbers(together), numbers(alone), strict=True):
            assert np.allclose(one, other, atol=1e-3)
    first, last = numbers(batch[0])[0], numbers(batch[2])[0]
    assert first.shape != last.shape or not np.allclose(first, last)


def numbers(result):
    """Return what a result says as arrays."""
    if hasattr(result, "detections"):
        return [np.array([[each.confidence, *each.bbox] for each in result.detections])]
    if hasattr(result, "classifications"):
        return [np.array([each.confidence for each in result.classifications])]
    if hasattr(result, "segments"):
        return [np.array([each.confidence for each in result.segments])]
    return [result.depth_map if hasattr(result, "depth_map") else result.embedding]


def test_int8_stays_close(exported, opened, load):
    """Eight bits lose little of a classifier: the best class stays, scores move by a hundredth."""
    path = exported("vit", int8=True)
    model, params = served(load, path, "classify")
    figures = comparison.compare(opened("vit"), model, params, photos.read(None), int8=True)
    assert all(figure.passed for figure in figures), [str(figure) for figure in figures]
    assert 1e-4 < figures[0].value < 0.05
    size = (path / "model.onnx.data").stat().st_size
    assert size < (exported("vit") / "model.onnx.data").stat().st_size * 0.6


def test_bfloat16_is_for_those_who_ask(exported, load, photo):
    """OpenVINO computes in float32 unless the model's dtype says otherwise."""
    answers = []
    for dtype in ("auto", "float32", "bfloat16"):
        model = load(exported("vit"), "classify", runtime="openvino", dtype=dtype)
        [result] = model.predict([photo], [ClassifyParams(use_softmax=False)])
        answers.append({each.label: each.confidence for each in result.classifications})
    assert answers[0] == answers[1]
    assert answers[2] == pytest.approx(answers[0], abs=0.2)


def test_weights_behind_links_are_read_by_openvino(exported, load, photo, tmp_path):
    """The hub's cache holds links; OpenVINO, which refuses them, gets the files themselves."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in exported("vit").iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs", file.name))
    linked, plain = (
        load(path, "classify", runtime="openvino").predict([photo], [ClassifyParams()])
        for path in (snapshot, exported("vit"))
    )
    assert linked == plain


# the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(*arguments)`` runs ``mataserver export`` with a data directory of its own."""
    monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(tmp_path / "data"))

    def invoke(*arguments):
        return CliRunner().invoke(command.export, [str(each) for each in arguments])

    return invoke


def registry(tmp_path):
    file = tmp_path / "data" / "model_registry.json"
    return json.loads(file.read_text())["models"] if file.exists() else {}


def test_the_command_exports_compares_and_registers(run, checkpoint, tmp_path):
    """The difference is printed and kept, the export is registered for the checkpoint's task."""
    done = run(checkpoint("vit"), "--to", "onnx", "--output", tmp_path / "made")
    assert done.exit_code == 0, done.output
    assert "compared with torch on 3 pictures" in done.output
    assert "probabilities: " in done.output
    record = json.loads((tmp_path / "made" / "comparison.json").read_text())
    assert 0 <= record["differences"]["probabilities"] < 1e-4
    [(name, entry)] = registry(tmp_path).items()
    assert name == "vit-onnx"
    assert (entry["task"], entry["path"]) == ("classify", str(tmp_path / "made"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "made"]


def test_an_export_that_does_not_agree_is_not_registered(run, checkpoint, tmp_path):
    """Weights that eight bits cannot hold: the comparison fails and nothing is left behind."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint("vit").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    for name, weight in weights.items():
        if "attention" in name or "mlp" in name or "classifier" in name:
            weight[0] *= 500  # one value far from the others takes all of the scale
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    done = run(broken, "--to", "onnx", "--int8", "--output", tmp_path / "made")
    assert done.exit_code
    assert isinstance(done.exception, MataError)
    assert "nothing was registered" in done.exception.detail
    assert "more than" in done.output
    assert registry(tmp_path) == {}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["broken"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("vit", ["--task", "depth"], "a vit can be exported for classify, not depth"),
        ("vit", ["--output", "."], "exists already"),
        ("vit", ["--int8", "--to", "openvino"], "calibrated on pictures"),
        ("missing/model", [], "not here: mataserver pull missing/model"),
        ("bert", [], "'bert' are not exported"),
        ("vit", ["--photos", "{tmp}"], "holds no pictures"),
        ("vit", ["--photos", "{tmp}/text.png"], "cannot be read as a picture"),
    ],
)
def test_what_cannot_be_exported_is_told(run, checkpoint, name, arguments, said, tmp_path):
    """Another task, a directory in use, no checkpoint, an unknown family, no pictures."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    if "{tmp}/text.png" in arguments:
        (pictures / "text.png").write_text("no picture")
    model = checkpoint(name) if name == "vit" else name
    if name == "bert":
        model = tmp_path / "bert"
        model.mkdir()
        (model / "config.json").write_text('{"model_type": "bert"}')
    given = [each.replace("{tmp}", str(pictures)) for each in arguments]
    done = run(model, "--to", "onnx", "--output", tmp_path / "made", *given)
    assert isinstance(done.exception, MataError), done.output
    assert said in done.exception.detail
    assert registry(tmp_path) == {}
    assert not (tmp_path / "made").exists()


def test_weights_elsewhere_are_not_exported(run, checkpoint, tmp_path):
    """A checkpoint's index, whatever its name, must not lead out of its directory."""
    from safetensors.torch import load_file

    model = tmp_path / "model"
    model.mkdir()
    for file in ("config.json", "preprocessor_config.json"):
        (model / file).write_bytes((checkpoint("vit") / file).read_bytes())
    weights = checkpoint("vit") / "model.safetensors"
    config = json.loads((model / "config.json").read_text())
    config["transformers_weights"] = "x.safetensors.index.json"
    (model / "config.json").write_text(json.dumps(config))
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), str(weights))}
    (model / "x.safetensors.index.json").write_text(json.dumps(index))
    (model / "own.safetensors").touch()
    done = run(model, "--to", "onnx", "--output", tmp_path / "made")
    assert isinstance(done.exception, MataError), done.output
    assert "x.safetensors.index.json names a file outside" in done.exception.detail
    assert registry(tmp_path) == {}


def test_a_checkpoint_without_its_head_is_refused(run, checkpoint, tmp_path):
    """No export has a random head."""
    from safetensors.torch import load_file, save_file

    headless = tmp_path / "headless"
    headless.mkdir()
    for file in checkpoint("vit").iterdir():
        (headless / file.name).write_bytes(file.read_bytes())
    weights = load_file(headless / "model.safetensors")
    kept = {name: each for name, each in weights.items() if not name.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    done = run(headless, "--to", "onnx", "--output", tmp_path / "made")
    assert "lacks 2 of the weights that its task needs, classifier" in done.exception.detail


def test_pictures_of_ones_own(run, checkpoint, tmp_path):
    """A folder of pictures is compared instead of the one that comes along."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate([(40, 60), (70, 50)]):
        noise = np.random.default_rng(index).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    done = run(
        *(checkpoint("vit"), "--to", "openvino", "--output", tmp_path / "made"),
        *("--photos", folder, "--name", "own"),
    )
    assert done.exit_code == 0, done.output
    assert "compared with torch on 2 pictures" in done.output
    assert list(registry(tmp_path)) == ["own"]


def test_int8_on_openvino_is_calibrated(run, checkpoint, tmp_path):
    """Weights and what goes through them become int8 by the pictures' values."""
    pytest.importorskip("nncf", reason="the extra int8 is not installed")
    done = run(
        *(checkpoint("vit"), "--to", "openvino", "--int8", "--photos", photos.SAMPLE),
        *("--output", tmp_path / "made"),
    )
    assert done.exit_code == 0, done.output
    assert 'element_type="i8"' in (tmp_path / "made" / "openvino_model.xml").read_text()


LOADED = """
import sys
from pathlib import Path
from mataserver_onnx.openvino_session import import_openvino

def refuse(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        raise RuntimeError(f"the network was used: {args}")

sys.addaudithook(refuse)
core = import_openvino().Core()
core.read_model(sys.argv[1])
print(sorted(each.name for each in Path.home().iterdir()))
"""


def test_openvino_reports_nothing(exported, tmp_path):
    """Its telemetry is not imported: nothing is written to the home, nothing is sent."""
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADED, exported("vit") / "model.onnx"],
        env={**os.environ, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_exports_limits_are_exact():
    """A difference passes up to its limit; NaN does not."""
    assert comparison.Difference("a", 0.1, 0.1).passed
    assert not comparison.Difference("a", 0.11, 0.1).passed
    assert not comparison.Difference("a", float("nan"), 0.1).passed
    assert str(comparison.Difference("scores", 0.25, 0.1)) == "scores: 0.25, more than 0.1"

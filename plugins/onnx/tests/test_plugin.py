"""What the plugin declares, and which files it takes, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

import mataserver_onnx
from mataserver import BadRequest, MataError, ModelFiles, testing
from mataserver.config import load as configure
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Registry
from mataserver.plugins import discover
from mataserver_onnx import classify, depth, detect, embed, layouts, segment
from mataserver_onnx.graph import Graph, Port
from mataserver_onnx.options import ModelOptions, Settings

BACKENDS = {backend.task: backend for backend in mataserver_onnx.backends()}

PROBE = """
import os, sys
import mataserver_onnx as plugin
plugin.settings()
for backend in plugin.backends():
    pass
heavy = ("onnxruntime", "openvino", "torch", "transformers", "onnx", "numpy", "PIL")
print([name for name in heavy if name in sys.modules], len(os.listdir("/proc/self/task")))
"""


def test_importing_the_plugin_imports_no_runtime():
    """The catalogue exists without a runtime, and nothing that starts threads is preloaded."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "1"]
    assert {backend.preload for backend in BACKENDS.values()} == {()}
    assert testing.check_plugin("onnx") == []


def serving(files):
    """The tasks for which a model would be served."""
    return {task for task, backend in BACKENDS.items() if backend.serves(files, task)}


def test_a_file_is_taken_for_what_it_is(planted, tmp_path):
    """A detector is for detection, a single row of numbers for classes or vectors."""
    made = {
        "detect": planted.yolo_v8,
        "segment": planted.yolo_seg,
        "depth": lambda path: planted.colours(path, "depth"),
    }
    for task, make in made.items():
        path = make(tmp_path / f"{task}.onnx")
        assert serving(ModelFiles("a", "local", path)) == {task}
    row = planted.colours(tmp_path / "row.onnx", "classes")
    assert serving(ModelFiles("a", "local", row)) == {"classify", "embed"}


def test_a_size_that_nothing_says_is_told_when_it_is_registered(planted, tmp_path):
    """With the setting to state; once it is stated the network is taken."""
    path = planted.colours(tmp_path / "any.onnx", "classes", size=("h", "w"))
    with pytest.raises(MataError, match="state input_size under plugins"):
        BACKENDS["classify"].serves(ModelFiles("a", "local", path), "classify")
    stated = Settings(models={"a": ModelOptions(input_size=(16, 24))})
    files = ModelFiles("a", "local", path, settings=stated)
    assert BACKENDS["classify"].serves(files, "classify")


@pytest.mark.parametrize("kind", [2, 3, 6, 7, 11])
def test_a_network_of_whole_numbers_is_refused_before_it_is_registered(kind):
    """It was registered, and each request failed: no image is given but in floating point."""
    network = Graph((Port("x", (1, 3, 64, 64), kind),), (Port("output", (1, 9)),))
    with pytest.raises(MataError, match="not of 16- or 32-bit floating point numbers"):
        layouts.choose(network, {}, "classify", ModelOptions())


def test_a_directory_is_taken_for_its_network(classifier, planted, tmp_path):
    """Exports, hub repositories with an onnx folder, and several networks of any names."""
    for target in ("onnx", "openvino"):
        files = ModelFiles("a", "local", classifier(target), {"model_type": "vit"})
        assert serving(files) == {"classify"}
    planted.yolo_v8(tmp_path / "onnx" / "model.onnx")
    assert serving(ModelFiles("a", "hf", tmp_path)) == {"detect"}
    (tmp_path / "onnx" / "model.onnx").rename(tmp_path / "a.onnx")
    planted.yolo_v8(tmp_path / "b.onnx")
    assert serving(ModelFiles("a", "local", tmp_path)) == set(BACKENDS)


@pytest.mark.parametrize("name", ["weights.safetensors", "notes.txt", "model.onnx.data"])
def test_other_files_are_left_alone(name, tmp_path):
    """Files and directories without a network belong to others."""
    (tmp_path / name).write_bytes(b"x")
    assert serving(ModelFiles("a", "local", tmp_path / name)) == set()
    assert serving(ModelFiles("a", "local", tmp_path)) == set()
    assert serving(ModelFiles("a", "pip")) == set()


def test_hub_models_are_taken_by_their_type():
    """Of a model that is about to be pulled its type is known, and no more."""
    families = {
        "detect": detect.FAMILIES,
        "classify": classify.FAMILIES,
        "segment": segment.FAMILIES,
        "depth": depth.FAMILIES,
        "embed": embed.FAMILIES,
    }
    for task, names in families.items():
        for name in names:
            assert task in serving(ModelFiles("a", "hf", config={"model_type": name}))
    assert serving(ModelFiles("a", "hf", config={"model_type": "bert"})) == set()


@pytest.fixture
def configured(tmp_path):
    """``configured(model=options)`` is a catalogue with this plugin alone, and its settings."""

    def make(**models):
        settings = configure(
            environ={},
            directory=tmp_path,
            data_dir=str(tmp_path / "data"),
            plugins={"onnx": {"models": {f"{name}.onnx": o for name, o in models.items()}}},
        )
        registry = Registry(tmp_path / "data" / "model_registry.json")
        return Catalog(settings, registry, discover(settings, testing.installed("onnx")))

    return make


@pytest.fixture
def catalog(configured):
    """A catalogue with this plugin alone."""
    return configured()


def cut_off(path, planted):
    planted.yolo_v8(path)
    path.write_bytes(path.read_bytes()[:-100])


def without_weights(path, planted):
    import onnx

    model = onnx.load(planted.yolo_v8(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path, _: path.write_bytes(b"no model" * 50), "is not an ONNX model"),
        (lambda path, _: path.touch(), "is empty"),
        (cut_off, "not the whole of one"),
        (without_weights, r"weights\.bin with the model's weights is missing"),
    ],
)
def test_a_bad_file_is_refused_when_it_is_registered(spoil, said, planted, catalog, tmp_path):
    """The reason is told, and nothing is registered."""
    spoil(tmp_path / "model.onnx", planted)
    with pytest.raises(BadRequest, match=f"model.onnx cannot be served: .*{said}"):
        catalog.add_local(tmp_path / "model.onnx", "detect")
    assert catalog.entries() == {}


def test_a_wrong_task_is_refused_when_it_is_registered(planted, catalog, tmp_path):
    """The tasks that the network is for are named."""
    path = planted.yolo_v8(tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match="serves detect, not depth"):
        catalog.add_local(path, "depth")
    assert catalog.add_local(path, "detect").name == "model.onnx"


@pytest.mark.parametrize(
    ("make", "said", "layout"),
    [
        (lambda p, path: p.pairs(path), "may be those of detr", "rt-detr"),
        (lambda p, path: p.yolo_v8(path, task="pose"), "says task pose", "yolo-v8"),
    ],
)
def test_what_is_not_certain_is_refused_until_it_is_stated(
    make, said, layout, planted, configured, tmp_path
):
    """Two readings, and a contradiction: the settings of that name decide."""
    path = make(planted, tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=f"model.onnx cannot be served: .*{said}.*state the layo"):
        configured().add_local(path, "detect")
    assert configured(model={"layout": layout}).add_local(path, "detect").name == "model.onnx"


def test_what_is_not_recognised_is_refused_when_it_is_registered(planted, catalog, tmp_path):
    """The outputs are told, and the layouts that are known for the task."""
    path = planted.colours(tmp_path / "model.onnx", "tokens", name="odd")
    with pytest.raises(BadRequest, match=r"not recognised \(known for embed: vector\); state.*odd"):
        catalog.add_local(path, "embed")


def test_a_wrong_number_of_names_is_refused_when_it_is_registered(planted, catalog, tmp_path):
    """A file that names two classes and tells three apart is refused by its pull."""
    path = planted.colours(tmp_path / "model.onnx", "classes", names="{0: 'a', 1: 'b'}")
    with pytest.raises(BadRequest, match="3 classes, but 2 labels are given"):
        catalog.add_local(path, "classify")


def test_a_model_that_breaks_later_says_why(planted, catalog, tmp_path):
    """A registered file that was damaged since is a 503 with the reason."""
    path = planted.yolo_v8(tmp_path / "model.onnx")
    catalog.add_local(path, "detect")
    path.write_bytes(b"no model" * 50)
    with pytest.raises(MataError, match=r"cannot be served: the file is not an ONNX") as caught:
        catalog.plan("model.onnx")
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"runtime": "tensorrt"}, "runtime"),
        ({"threads": -1}, "threads"),
        ({"models": {"a": {"layout": "yolo"}}}, "layout"),
        ({"models": {"a": {"input_size": [0, 64]}}}, "input_size"),
        ({"models": {"a": {"input_size": 640}}}, "input_size"),
        ({"models": {"a": {"std": [1, 1, 0]}}}, "std"),
        ({"models": {"a": {"mean": [1, 1]}}}, "mean"),
        ({"models": {"a": {"sharpen": True}}}, "sharpen"),
        ({"model": {}}, "model"),
    ],
)
def test_settings_refuse_wrong_values_by_name(given, key):
    """A value out of range and a misspelt key stop the start and are named."""
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(given, mataserver_onnx.settings())


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        (detect.DetectParams, {"confidence": 0.25, "overlap": 0.5}),
        (segment.SegmentParams, {"confidence": 0.25, "overlap": 0.5}),
        (classify.ClassifyParams, {"confidence": 0.25, "top_k": 3, "use_softmax": False}),
        (depth.DepthParams, {"normalize": False, "target_size": [480, 640]}),
    ],
)
def test_params_cross_the_wire(params, sent):
    """Params made of JSON values survive the way to a worker, and misspelt ones are refused."""
    made = msgspec.convert(sent, params)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=params) == made
    assert made != params()
    with pytest.raises(msgspec.ValidationError, match="confidense"):
        msgspec.convert({"confidense": 1}, params)

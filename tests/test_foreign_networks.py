"""Files of networks that strangers made: read, or refused in a sentence, before a runtime opens."""

from __future__ import annotations

import contextlib

import msgspec
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from foreign_bytes import FEW, damaged, seeded
from mataserver import MataError, ModelFiles
from mataserver_onnx import (
    Settings,
    backends,
    bundle,
    graph,
    ir,
    labels,
    layouts,
    metadata_file,
    preparation_choice,
)
from mataserver_onnx.options import ModelOptions

pytestmark = pytest.mark.long

BACKENDS = list(backends())
NAMES = (
    "images",
    "logits",
    "pred_boxes",
    "dets",
    "labels",
    "masks",
    "output0",
    "output1",
    "x\n",
    "boxes",
    "scores",
)
SIDES = (*(0, 1, 2, 3, 4, 5, 6, 84, 85, 300, 8400, 25200, 640, 2**31, 2**62, -1), "", "n", "\n")
KINDS = ("Softmax", "Sigmoid", "MatMul", "Add", "Concat", "Reshape", "Constant", "Exp", "Div")
NOTES = ("stride", "names", "task", "end2end", "kpt_shape", "imgsz", "args", "description")
VALUES = (
    *("detect", "pose", "obb", "segment", "classify", "YOLO", "32", "True", "[17, 3]", "(4, 9)"),
    *("{0: 'a', 1: 'b'}", "['a', 'b']", "a,b", "[" * 300, f"[0x{'f' * 9_000}, 1]", "-" * 9_000),
    *("{0: '\\ud800'}", "{0: 9e999}", "\0", '{0: "a\\d"}', "{-1: 'a'}", "{'nms': True}"),
)
SETTINGS = (
    b'{"id2label": {"0": "cat", "1": "dog"}, "problem_type": "regression", "model_type": "detr"}',
    b'{"pretrained_cfg": {"input_size": [3, 9, 9], "mean": [0, 0, 0], "crop_pct": 0.9}}',
    b'{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}',
)
METADATA = b"task: detect\nstride: 32\nimgsz:\n- 640\n- 640\nnames:\n  0: cat\n  1: dog\n"
IR = b"""<net name="a" version="11"><layers>
<layer id="0" name="x" type="Parameter"><output><port id="0" precision="FP32" names="images">
<dim>1</dim><dim>3</dim><dim>32</dim><dim>32</dim></port></output></layer>
<layer id="1" name="s" type="SoftMax"/>
<layer id="2" name="r" type="Result" output_names="logits"><input><port id="0" precision="FP32">
<dim>1</dim><dim>4</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


def network(outputs, sides=(1, 3, 32, 32), notes=(), nodes=(), name="images"):
    """Return an ONNX file whose ``outputs`` are pairs of a name and sides."""
    ports = [helper.make_tensor_value_info(each, 1, list(shape)) for each, shape in outputs]
    given = helper.make_tensor_value_info(name, 1, list(sides))
    made = [helper.make_node(kind, list(taken), list(gives)) for kind, taken, gives in nodes]
    weight = onnx.TensorProto(name="w", data_type=1, dims=[1], raw_data=b"\0\0\x80\x3f")
    model = helper.make_model(helper.make_graph(made, "g", [given], ports, [weight]))
    for key, value in notes:
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


CLASSES = network([("logits", (1, 4))], nodes=[("Softmax", ("images",), ("logits",))])
YOLO = network([("output0", (1, 6, 21))], notes=[("names", "['a', 'b']"), ("stride", "32")])


def asked(place):
    """Ask every task what it says of the files there; return the tasks that take them."""
    for reader in (graph, ir, metadata_file):  # a file is known by its time, in some milliseconds
        reader._read.cache_clear()
    taken = []
    for each in BACKENDS:
        config = {}
        with contextlib.suppress(MataError):
            config = bundle._json(place / "config.json")
        files = ModelFiles("m", "local", place, config, Settings())
        with told():
            if each.serves(files, each.task):
                each.facts(files)
                opened = bundle.open_bundle(place)
                chosen = layouts.choose(opened.graph, opened.config, each.task, ModelOptions())
                labels.find(opened.graph, opened.config, None)
                preparation_choice.choose(opened, chosen, ModelOptions())
                taken.append(each.task)
    return taken


@contextlib.contextmanager
def told():
    """What is refused is told in one line, which is no longer than a line of a page."""
    try:
        yield
    except MataError as error:
        assert error.detail.isprintable(), error.detail  # noqa: PT017 - either way is right
        assert 0 < len(error.detail) < 2_000  # noqa: PT017


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory whose files are written again and again."""
    return tmp_path_factory.mktemp("foreign")


def holding(place, **files):
    """Return the directory with these files alone: a name's last ``_`` is its point."""
    for each in place.iterdir():
        each.unlink()
    for name, data in files.items():
        (place / ".".join(name.rsplit("_", 1))).write_bytes(data)
    return place


def test_sound_ones_are_taken(place):
    """What is damaged below was whole, or nothing behind the first check would be reached."""
    assert asked(holding(place, model_onnx=CLASSES)) == ["classify"]
    assert asked(holding(place, model_onnx=YOLO)) == ["detect"]
    assert asked(holding(place, openvino_model_xml=IR, openvino_model_bin=b"")) == ["classify"]


@FEW
@seeded("networks")
@given(damaged(CLASSES, YOLO, of="networks"))
def test_networks(place, data):
    """An ONNX file."""
    asked(holding(place, model_onnx=data))


PORTS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(SIDES), max_size=5)),
    max_size=4,
)
PLACES = st.lists(st.sampled_from((*NAMES, "w")), max_size=3)


@FEW
@given(
    PORTS,
    st.lists(st.sampled_from(SIDES), max_size=5) | st.just([1, 3, 640, 640]),
    st.lists(st.tuples(st.sampled_from(NOTES), st.sampled_from(VALUES)), max_size=4),
    st.lists(st.tuples(st.sampled_from(KINDS), PLACES, PLACES), max_size=6),
    st.sampled_from((b"", *SETTINGS)),
)
def test_networks_of_any_shape(place, outputs, sides, notes, nodes, config):
    """A whole ONNX file whose ports, nodes and metadata say anything."""
    data = network(outputs, sides, notes, nodes)
    beside = {"config_json": config} if config else {}
    asked(holding(place, model_onnx=data, **beside))


@FEW
@seeded("network-notes", key="names")
@seeded("network-notes", key="kpt_shape")
@given(damaged(*(each.encode() for each in VALUES), of="network-notes"), st.sampled_from(NOTES))
def test_metadata_in_networks(place, data, key):
    """An entry of the metadata that an exporter writes."""
    notes = [(key, data.decode("utf-8", "replace")), ("stride", "32")]
    asked(holding(place, model_onnx=network([("output0", (1, 56, 21))], notes=notes)))


@FEW
@seeded("openvino")
@given(damaged(IR, of="openvino"))
def test_descriptions_of_openvino(place, data):
    """The description of a network for OpenVINO."""
    asked(holding(place, openvino_model_xml=data, openvino_model_bin=b""))


@FEW
@seeded("openvino-metadata")
@given(damaged(METADATA, of="openvino-metadata"))
def test_metadata_beside_networks(place, data):
    """The ``metadata.yaml`` of Ultralytics."""
    files = {"openvino_model_xml": IR, "openvino_model_bin": b"", "metadata_yaml": data}
    asked(holding(place, **files))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.sampled_from((0, 1, -1, 10**9, 2**63, 0.5, 1e308, "", "a")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("01a"), inner),
    max_leaves=4,
)
CONFIG = ("id2label", "label_names", "problem_type", "model_type")
TIMM = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
PROCESSOR = (
    *("size", "crop_size", "do_center_crop", "image_mean", "image_std", "rescale_factor"),
    *("resample", "do_resize", "max_size"),
)


def some(keys):
    """Some of ``keys``, with anything for values."""
    return st.dictionaries(st.sampled_from(keys), ANYTHING, max_size=3)


@FEW
@given(some(CONFIG), some(TIMM), some(PROCESSOR))
def test_settings_beside_networks(place, config, timm, processor):
    """The ``config.json`` of a model, and the settings of its processor or timm's."""
    files = {"config_json": msgspec.json.encode(config | {"pretrained_cfg": timm})}
    if processor:
        said = {"image_processor_type": "ViTImageProcessor"} | processor
        files["preprocessor_config_json"] = msgspec.json.encode(said)
    asked(holding(place, model_onnx=CLASSES, **files))


@FEW
@seeded("network-settings", beside=True)
@seeded("network-settings", beside=False)
@given(damaged(*SETTINGS, of="network-settings"), st.booleans())
def test_damaged_settings_beside_networks(place, data, beside):
    """The same files, as they are not JSON or not whole."""
    name = "preprocessor_config_json" if beside else "config_json"
    asked(holding(place, model_onnx=CLASSES, **{name: data}))

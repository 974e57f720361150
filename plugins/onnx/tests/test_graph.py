"""Reading what a file says of itself, against the onnx library, and files that are damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tracemalloc

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mataserver import MataError
from mataserver_onnx import bundle, graph, ir
from mataserver_onnx.constants import scalar
from mataserver_onnx.ends import MAX_INPUTS, PASSING
from mataserver_onnx.protobuf import Message, Room, TooManyFieldsError

IR = """<?xml version="1.0"?>
<net name="Model0" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><output>
<port id="0" precision="FP32" names="pixel_values,x"><dim>-1</dim><dim>3</dim><dim>32</dim>
<dim>48</dim></port></output></layer>
<layer id="1" name="s" type="SoftMax" version="opset8"><output>
<port id="1" precision="FP32" names="logits"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="2" name="Result_1" type="Result" version="opset1" output_names="logits"><input>
<port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port></input></layer>
</layers><edges>
<edge from-layer="0" from-port="0" to-layer="1" to-port="0" />
<edge from-layer="1" from-port="1" to-layer="2" to-port="0" />
</edges></net>
"""


def by_the_library(path):
    """What the onnx library says of the same file."""
    model = onnx.load(path, load_external_data=False)
    weights = {each.name for each in model.graph.initializer}

    def port(info):
        tensor = info.type.tensor_type
        dims = tuple(
            side.dim_value if side.HasField("dim_value") else side.dim_param
            for side in tensor.shape.dim
        )
        return graph.Port(info.name, dims, tensor.elem_type)

    return graph.Graph(
        inputs=tuple(port(each) for each in model.graph.input if each.name not in weights),
        outputs=tuple(port(each) for each in model.graph.output),
        metadata={each.key: each.value for each in model.metadata_props},
        opset=model.opset_import[0].version,
        ends={each.name: way(model.graph, each.name) for each in model.graph.output},
        external=ends([each for each in model.graph.initializer if each.data_location]),
    )


def way(graph, name):
    """The operators from an output back, through those that only give on."""
    producers = {made: node for node in graph.node for made in node.output}
    kinds = []
    while name in producers and (not kinds or kinds[-1] in PASSING):
        kinds.append(producers[name].op_type)
        name = producers[name].input[0]
    return tuple(kinds)


def ends(weights):
    """The files of weights, each with where the last of its weights ends."""
    found = {}
    for weight in weights:
        notes = {entry.key: entry.value for entry in weight.external_data}
        end = int(notes["offset"]) + int(notes["length"])
        found[notes["location"]] = max(end, found.get(notes["location"], 0))
    return found


def test_equals_the_onnx_library(planted, tmp_path):
    """Inputs, outputs, metadata, operators' version and the ends are those of the library."""
    path = planted.yolo_seg(tmp_path / "a.onnx", names="{0: 'a'}", stride="32")
    assert graph.read(path) == by_the_library(path)
    assert graph.read(path).metadata == {"names": "{0: 'a'}", "stride": "32"}


def test_external_weights_are_seen(classifier):
    """Weights lie in a file beside it, which the graph names, with the bytes it must have."""
    path = classifier() / "model.onnx"
    found = graph.read(path)
    assert found == by_the_library(path)
    size = (path.parent / "model.onnx.data").stat().st_size
    assert found.external == {"model.onnx.data": size}


def test_inputs_with_weights_are_no_inputs(planted, tmp_path):
    """Old files list their weights among the inputs."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    info = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
    model.graph.input.append(info)
    onnx.save(model, path)
    assert [port.name for port in graph.read(path).inputs] == ["images"]


def test_a_file_that_changes_is_read_again(planted, tmp_path):
    """What is remembered of a file belongs to its time and size."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    assert len(graph.read(path).outputs[0].dims) == 2
    planted.colours(path, "map")
    assert len(graph.read(path).outputs[0].dims) == 4


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    """The bytes of a sound file."""
    return planted.yolo_v8(tmp_path_factory.mktemp("whole") / "a.onnx").read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_told_or_read(data, whole, tmp_path):
    """Cut off, overwritten or made up: a file is read or refused, and nothing else happens."""
    start = data.draw(st.integers(0, len(whole)))
    content = data.draw(
        st.sampled_from(
            [
                whole[:start],
                whole[:start] + data.draw(st.binary(max_size=64)) + whole[start + 8 :],
                data.draw(st.binary(max_size=200)),
            ]
        )
    )
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    try:
        assert graph.read(path).outputs
    except MataError as error:
        assert error.detail.startswith("the file is")  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    "part", [b"\x0a\x00", b"\x2a\x00", b"\x5a\x00"], ids=["nodes", "weights", "inputs"]
)
def test_what_a_file_describes_ends(part, whole, tmp_path):
    """A million empty parts are two megabytes, and the server waited long for them."""
    # one more field of the file's graph, whose parts follow those that it has
    length = len(part) * 600_000
    field = bytes(
        [7 << 3 | 2, *(length >> 7 * each & 0x7F | 0x80 for each in (0, 1)), length >> 14]
    )
    (tmp_path / "a.onnx").write_bytes(whole + field + part * 600_000)
    with pytest.raises(MataError, match="more nodes, weights or ports than a network has"):
        graph.read(tmp_path / "a.onnx")


def test_an_operators_many_inputs_are_not_traced(tmp_path):
    """Each output is traced through them: 48 KB of both took four seconds, and a megabyte hours."""
    image = onnx.helper.make_tensor_value_info("x", 1, [1, 3, 32, 32])
    outputs = [onnx.helper.make_tensor_value_info("y", 1, [1, 4]) for _ in range(1025)]
    node = onnx.helper.make_node("Concat", ["x"] * 1000, ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [image], outputs))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(MataError, match="more nodes, weights or ports than a network has"):
        graph.read(tmp_path / "a.onnx")
    made = graph._node(Message.whole(node.SerializeToString()))
    assert len(made["y"].inputs) == MAX_INPUTS


def test_the_texts_of_a_file_end():
    """They stay in memory: 250 MB of metadata took 250 MB of the server."""
    content = b"\x0a\x04text"
    for room, fits in ((4, True), (3, False)):
        message = Message(content, 2, len(content), Room(texts=room))
        with contextlib.nullcontext() if fits else pytest.raises(TooManyFieldsError):
            assert message.text() == "text"


def test_a_layer_of_many_inputs_is_read(tmp_path):
    """Of OpenVINO's as many are looked at, by their ports, as of ONNX's."""
    more = "".join(
        f'<edge from-layer="9" from-port="0" to-layer="1" to-port="{n}" />' for n in range(1, 999)
    )
    (tmp_path / "a.xml").write_text(IR.replace("</edges>", more + "</edges>"))
    assert ir.read(tmp_path / "a.xml").ends == {"logits": ("SoftMax",)}


def test_a_tensor_of_many_numbers_is_no_scalar():
    """It takes no memory: its numbers were joined, which took the square of their count."""
    tensor = Message.whole(b"\x10\x01" + b"\x22\x04\x00\x00\x80\x3f" * 100_000)
    tracemalloc.start()
    try:
        assert scalar(tensor) is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"hello world" * 99, "not an ONNX model"), (b"\x08\x01", "not an ONNX")],
)
def test_what_is_no_model_is_refused(content, said, tmp_path):
    """An empty file, a text and a protocol buffer of another kind are refused in a sentence."""
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(MataError, match=said):
        graph.read(tmp_path / "a.onnx")


@pytest.mark.parametrize("reader", [graph, ir])
def test_what_is_no_model_is_not_read_again(reader, tmp_path, whole):
    """Each task asks, and to refuse a long one takes a second; one that changes is read."""
    path, content = tmp_path / "a", whole if reader is graph else IR.encode()
    path.write_bytes(b"?" * len(content))
    status = path.stat()
    with pytest.raises(MataError):
        reader.read(path)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(MataError):
        reader.read(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert reader.read(path).outputs


def test_openvinos_own_files_are_read(tmp_path):
    """Ports, sides and ends of OpenVINO's format; its weights lie in a file of the same name."""
    (tmp_path / "openvino_model.xml").write_text(IR)
    found = ir.read(tmp_path / "openvino_model.xml")
    assert found.inputs == (graph.Port("pixel_values", ("", 3, 32, 48)),)
    assert found.outputs == (graph.Port("logits", ("", 4)),)
    assert found.ends == {"logits": ("SoftMax",)}
    assert found.external == {"openvino_model.bin": 0}


def test_whole_numbers_of_openvino_are_told_from_others(tmp_path):
    """A map of the numbers of classes is no depth, in OpenVINO's files as in ONNX's."""
    whole = IR.replace('precision="FP32"', 'precision="I64"')
    assert whole != IR
    (tmp_path / "a.xml").write_text(whole)
    [port] = ir.read(tmp_path / "a.xml").outputs
    assert port.kind in graph.WHOLE_NUMBERS


@pytest.mark.parametrize("content", ["", "<net>", "<net></net>", IR.replace(">3<", ">three<")])
def test_what_is_no_openvino_model_is_refused(content, tmp_path):
    """XML that is broken, or of something else, is refused in a sentence."""
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(MataError, match="not an OpenVINO model"):
        ir.read(tmp_path / "a.xml")


ENTITIES = f"""<!DOCTYPE net [<!ENTITY a "{"A" * 9_000}">]>"""


@pytest.mark.parametrize(
    "content",
    [
        ENTITIES + IR.partition("?>")[2].replace("</net>", f"<!--{'c' * 10**6}-->&a;</net>"),
        IR.replace("</net>", "<a/>" * 2_000_001 + "</net>"),
        IR.replace("</net>", "<a>" * 500 + "</a>" * 500 + "</net>"),
        IR.replace("<dim>", "<dim>" + "1" * 10**6, 1),
    ],
    ids=["entities", "elements", "depth", "digits"],
)
def test_openvinos_files_of_strangers_do_not_fill_memory(content, tmp_path):
    """Entities stand for any amount of text, and elements cost more memory than their bytes."""
    (tmp_path / "a.xml").write_text(content)
    tracemalloc.start()
    try:
        with pytest.raises(MataError, match="not an OpenVINO model"):
            ir.read(tmp_path / "a.xml")
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 3 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", ['<edge to-layer="%d"/>', '<layer id="%d"/>'])
def test_layers_and_edges_without_end_are_refused(kept, tmp_path):
    """They are kept, and take ten times the memory of their bytes."""
    where = "</edges>" if "edge" in kept else "</layers>"
    many = "".join(kept % number for number in range(10**6, 10**6 + 100_001))
    (tmp_path / "a.xml").write_text(IR.replace(where, many + where))
    with pytest.raises(MataError, match="not an OpenVINO model"):
        ir.read(tmp_path / "a.xml")


def test_a_loops_body_is_not_the_network(tmp_path):
    """The layers in a body have numbers of their own, and its parameters are no inputs."""
    body = "".join(re.findall("<layers>.*</edges>", IR, re.DOTALL)).replace('"0"', '"7"')
    loop = f'<layer id="3" name="loop" type="Loop"><body>{body}</body></layer></layers><edges>'
    (tmp_path / "a.xml").write_text(IR.replace("</layers><edges>", loop))
    (tmp_path / "b.xml").write_text(IR)
    found, plain = ir.read(tmp_path / "a.xml"), ir.read(tmp_path / "b.xml")
    assert (found.inputs, found.outputs, found.ends) == (plain.inputs, plain.outputs, plain.ends)


# directories


def test_the_usual_names_come_first(planted, tmp_path):
    """Of several networks the one with a usual name is taken, and any other can be named."""
    for name in ("model.onnx", "onnx/model.onnx", "onnx/model_fp16.onnx", "other.onnx"):
        planted.colours(tmp_path / name, "classes")
    assert bundle.find_network(tmp_path) == tmp_path / "model.onnx"
    (tmp_path / "model.onnx").unlink()
    assert bundle.find_network(tmp_path) == tmp_path / "onnx" / "model.onnx"
    named = bundle.find_network(tmp_path, "onnx/model_fp16.onnx")
    assert named == tmp_path / "onnx" / "model_fp16.onnx"
    (tmp_path / "onnx" / "model.onnx").unlink()
    with pytest.raises(bundle.AmbiguousNetworkError, match=r"several networks.*other\.onnx"):
        bundle.find_network(tmp_path)
    (tmp_path / "other.onnx").unlink()
    assert bundle.find_network(tmp_path) == named


@pytest.mark.parametrize("wanted", ["../model.onnx", "/etc/passwd", "missing.onnx"])
def test_a_named_file_lies_in_the_directory(wanted, planted, tmp_path):
    """A file outside the directory, or one that is not there, is refused."""
    planted.colours(tmp_path / "inside" / "model.onnx", "classes")
    planted.colours(tmp_path / "model.onnx", "classes")
    with pytest.raises(MataError, match=r"inside the model's directory|has no file"):
        bundle.find_network(tmp_path / "inside", wanted)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/etc/passwd", "weights outside its directory"),
        ("../secret", "weights outside its directory"),
        ("a" * 5000, "the file a{100} with the model's weights is missing"),
    ],
)
def test_weights_from_elsewhere_are_refused(place, said, planted, tmp_path):
    """A file that asks for weights outside its directory is refused before a runtime sees it."""
    path = planted.colours(tmp_path / "model.onnx", "classes")
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(MataError, match=said):
        bundle.open_bundle(path)


@pytest.mark.parametrize("form", ["processor_config.json", "preprocessor_config.json"])
def test_the_image_processors_settings_are_read_in_both_forms(tmp_path, form):
    """Transformers saves them with the whole processor or alone; the former counts first."""
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    older = {"image_processor_type": "ConvNextImageProcessor"}
    if form == "processor_config.json":
        (tmp_path / form).write_text(json.dumps({"image_processor": said, "tokenizer": {}}))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(older))
    else:
        (tmp_path / form).write_text(json.dumps(said))
        (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert bundle.image_settings(tmp_path) == said


@pytest.mark.parametrize("content", ["[1, 2]", "{", '"text"'])
def test_broken_json_beside_the_model_is_told(content, planted, tmp_path):
    """A configuration that cannot be used is an error, not ignored."""
    planted.colours(tmp_path / "model.onnx", "classes")
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(MataError, match=r"preprocessor_config\.json (cannot be read|is not)"):
        bundle.open_bundle(tmp_path)

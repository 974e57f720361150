"""Classes, maps, depths and vectors, and every way in which a network cannot be used."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest

from mataserver import InvalidParams, MataError, OutOfMemory, Unavailable
from mataserver_onnx.classify import ClassifyParams
from mataserver_onnx.depth import DepthParams
from mataserver_onnx.segment import SegmentParams
from mataserver_onnx.session import runtime_failure

PLAIN = {"resize": "stretch", "mean": [0, 0, 0], "std": [1, 1, 1]}


def solid(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def softmax(values):
    powers = np.exp(np.array(values))
    return (powers / powers.sum()).tolist()


def test_logits_become_probabilities(planted, load, tmp_path):
    """Classes are ranked by the softmax of the logits, or by the logits themselves."""
    model = load(planted.colours(tmp_path / "a.onnx", "classes"), "classify", **PLAIN)
    image = solid((255, 51, 102))
    expected = softmax([4, 0.8, 1.6])
    [result] = model.predict([image], [ClassifyParams()])
    assert [each.label for each in result.classifications] == ["LABEL_0", "LABEL_2", "LABEL_1"]
    scores = [each.confidence for each in result.classifications]
    assert scores == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
    [sure] = model.predict([image], [ClassifyParams(confidence=0.5)])
    assert len(sure.classifications) == 1
    [raw] = model.predict([image], [ClassifyParams(use_softmax=False, top_k=2, confidence=0.9)])
    assert [each.confidence for each in raw.classifications] == pytest.approx([4, 1.6], abs=1e-5)


def test_a_network_that_ends_in_probabilities(planted, load, tmp_path):
    """Its answers are taken as they are; there are no logits to ask for."""
    model = load(planted.colours(tmp_path / "a.onnx", "softmax"), "classify", **PLAIN)
    [result] = model.predict([solid((255, 51, 102))], [ClassifyParams(top_k=1)])
    [best] = result.classifications
    assert best.confidence == pytest.approx(max(softmax([4, 0.8, 1.6])), abs=1e-6)
    with pytest.raises(InvalidParams, match="probabilities only"):
        model.predict([solid((255, 51, 102))], [ClassifyParams(use_softmax=False)])


def test_labels_that_may_be_true_together(planted, load, tmp_path):
    """With ``multi_label_classification`` in the config each logit stands for itself."""
    planted.colours(tmp_path / "model.onnx", "classes")
    config = {"problem_type": "multi_label_classification", "id2label": {0: "r", 1: "g", 2: "b"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    [result] = load(tmp_path, "classify", **PLAIN).predict(
        [solid((255, 51, 102))], [ClassifyParams()]
    )
    assert result.classifications[0].label == "r"
    assert result.classifications[0].confidence == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


def test_a_network_that_measures_is_no_classifier(planted, load, tmp_path):
    """The sigmoid of a length is the probability of nothing."""
    planted.colours(tmp_path / "model.onnx", "classes")
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": "regression"}))
    with pytest.raises(MataError, match="measures"):
        load(tmp_path, "classify", **PLAIN)
    assert load(tmp_path, "classify", activation="sigmoid", **PLAIN)


def test_pictures_are_prepared_as_stated(planted, load, tmp_path):
    """Scale, mean, deviation and the order of colours are those of the settings."""
    options = {
        "resize": "stretch",
        "rescale": 1.0,
        "mean": [5, 5, 5],
        "std": [2, 2, 2],
        "channels": "bgr",
    }
    model = load(planted.colours(tmp_path / "a.onnx", "classes", gain=1.0), "classify", **options)
    [result] = model.predict([solid((25, 15, 7))], [ClassifyParams(use_softmax=False)])
    found = {each.label: each.confidence for each in result.classifications}
    assert found == pytest.approx({"LABEL_0": 1, "LABEL_1": 5, "LABEL_2": 10}, abs=1e-4)


def test_a_classifier_without_settings_sees_the_middle(planted, load, tmp_path):
    """Without a processor: ImageNet's mean and deviation, and the middle of the picture."""
    model = load(planted.colours(tmp_path / "a.onnx", "classes", gain=1.0), "classify")
    image = solid((0, 0, 0), 64, 192)
    image[:, 48:144] = 255
    [result] = model.predict([image], [ClassifyParams(use_softmax=False)])
    white = {"LABEL_0": (1 - 0.485) / 0.229, "LABEL_1": (1 - 0.456) / 0.224}
    found = {each.label: each.confidence for each in result.classifications}
    assert {name: found[name] for name in white} == pytest.approx(white, abs=0.2)


def test_classes_of_pixels(planted, load, tmp_path):
    """Each pixel goes to the strongest map; a segment per class, with its mean probability."""
    path = planted.colours(tmp_path / "a.onnx", "map", size=(32, 48))
    image = solid((200, 10, 10), 64, 96)
    image[:, 48:] = (10, 10, 220)
    [result] = load(path, "segment", **PLAIN).predict([image], [SegmentParams(confidence=0.3)])
    masks = {each.label: each.mask for each in result.segments}
    assert set(masks) == {"LABEL_0", "LABEL_2"}
    assert masks["LABEL_0"].shape == (64, 96)
    assert masks["LABEL_0"][:, :46].all()
    assert not masks["LABEL_0"][:, 50:].any()
    assert (masks["LABEL_0"] ^ masks["LABEL_2"]).all()
    scores = [each.confidence for each in result.segments]
    assert scores == sorted(scores, reverse=True)
    assert (
        load(path, "segment", **PLAIN).predict([image], [SegmentParams(confidence=0.9)])[0].segments
        == []
    )


def test_a_depth_per_pixel(planted, load, tmp_path):
    """The map has the picture's size, or another; it is stretched to 0..1 unless told not to."""
    model = load(planted.colours(tmp_path / "a.onnx", "depth"), "depth", **PLAIN)
    image = solid((0, 0, 0), 64, 96)
    image[:, 48:] = 255
    plain, raw, small = (
        model.predict([image], [params])[0].depth_map
        for params in (
            DepthParams(),
            DepthParams(normalize=False),
            DepthParams(target_size=(5, 7)),
        )
    )
    assert (plain.shape, small.shape, plain.dtype) == ((64, 96), (5, 7), np.float32)
    assert (plain.min(), plain.max()) == (0, 1)
    assert raw[:, :30] == pytest.approx(0, abs=1e-3)
    assert raw[:, -30:] == pytest.approx(1, abs=1e-3)
    [flat] = model.predict([solid((9, 9, 9))], [DepthParams()])
    assert not flat.depth_map.any()


def test_labels_of_a_file(planted, load, tmp_path):
    """A file of labels is looked for beside the network."""
    planted.colours(tmp_path / "a.onnx", "classes")
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    model = load(tmp_path / "a.onnx", "classify", labels="names.txt", **PLAIN)
    [result] = model.predict([solid((0, 250, 0))], [ClassifyParams(top_k=1)])
    assert result.classifications[0].label == "green"


@pytest.mark.parametrize("sides", [("h", "w"), (64, 64)])
def test_a_mask_of_no_padding(sides, planted, load, tmp_path):
    """DETR is told which pixels are padding: none, in the images' size or the one that it wants."""
    path = planted.masked(tmp_path / "a.onnx", sides)
    model = load(path, "classify", **PLAIN)
    [result] = model.predict([solid((255, 51, 102))], [ClassifyParams(use_softmax=False)])
    scores = [each.confidence for each in result.classifications]
    assert scores == pytest.approx([4, 1.6, 0.8], abs=1e-5)


# what cannot be used


def test_a_wrong_number_of_labels(planted, load, tmp_path):
    """Two labels for three classes are told with both numbers."""
    planted.colours(tmp_path / "a.onnx", "classes")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "red", "1": "green"}}')
    with pytest.raises(MataError, match="has 3 classes, but 2 labels are given"):
        load(tmp_path / "a.onnx", "classify", **PLAIN)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_operators_that_are_too_new(runtime, planted, load, tmp_path):
    """A network of a later version of ONNX is told with the version, whatever runs it."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(MataError, match="version 99 of ONNX's operators"):
        load(path, "classify", runtime=runtime, **PLAIN)


def test_a_format_that_is_too_new(planted, load, tmp_path):
    """So is a file of a later version of the format."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = onnx.load(path)
    model.ir_version = 99
    onnx.save(model, path)
    with pytest.raises(MataError, match="newer format of ONNX"):
        load(path, "classify", **PLAIN)


@pytest.mark.parametrize("domain", ["", "com.acme"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_operators_that_nobody_knows(runtime, domain, planted, load, tmp_path):
    """An operator of someone's own is named, with whose it is."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = onnx.load(path)
    model.graph.node[0].op_type = "Frobnicate"
    if domain:
        model.graph.node[0].domain = domain
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    whose = r"com\.acme[.:]" if domain else ""
    with pytest.raises(MataError, match=f"the operator {whose}Frobnicate, which") as caught:
        load(path, "classify", runtime=runtime, **PLAIN)
    assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_that_are_missing(runtime, classifier, load, tmp_path):
    """A file of weights that is not beside the network is named."""
    shutil.copy(classifier() / "model.onnx", tmp_path)
    with pytest.raises(MataError, match=r"model\.onnx\.data with the model's weights is missing"):
        load(tmp_path, "classify", runtime=runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_that_are_cut_off(runtime, classifier, load, tmp_path):
    """A file of weights that ends too early is told, which not every runtime does."""
    shutil.copytree(classifier(), tmp_path / "model")
    data = tmp_path / "model" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:2])
    with pytest.raises(MataError, match=r"model\.onnx\.data with the model's weights is not whole"):
        load(tmp_path / "model", "classify", runtime=runtime)


def test_a_network_that_takes_more_than_an_image(planted, load, tmp_path):
    """A network that also reads text is told with the inputs that it wants."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    model = onnx.load(path)
    text = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", 7])
    model.graph.input.append(text)
    onnx.save(model, path)
    with pytest.raises(MataError, match="more than an image: input_ids"):
        load(path, "classify", **PLAIN)


def test_a_size_that_nothing_says(planted, load, tmp_path):
    """A network for any size, without a processor and without settings, is refused."""
    path = planted.colours(tmp_path / "a.onnx", "classes", size=("h", "w"))
    with pytest.raises(MataError, match="nothing says how large"):
        load(path, "classify")
    model = load(path, "classify", input_size=[16, 24])
    assert model.predict([solid((9, 9, 9))], [ClassifyParams()])


@pytest.mark.parametrize("size", [(0, 0), (16, 0), (2**20, 2**20)])
def test_an_input_that_no_image_fits(size, planted, load, tmp_path):
    """An input without a pixel, or of terabytes, is the network's fault and not the image's."""
    path = planted.colours(tmp_path / "a.onnx", "classes", size=size)
    with pytest.raises(
        MataError, match=f"takes images of {size[1]}x{size[0]} pixels alone"
    ) as told:
        load(path, "classify", **PLAIN)
    assert told.value.status == 500


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_size": [64, 64]}, "48x32 pixels and no others"),
        ({"resize": "letterbox", "layout": "classes"}, None),
        ({"layout": "yolo-v8"}, "for the task detect"),
        ({"labels": "missing.txt"}, "labels cannot be read"),
        ({"precision": "bfloat16"}, "number format of the file"),
        ({"providers": ["CUDAExecutionProvider"]}, "has no CUDAExecutionProvider"),
    ],
)
def test_settings_that_do_not_fit(options, said, planted, load, tmp_path):
    """What the settings ask for and this network or machine has not is told by name."""
    path = planted.colours(tmp_path / "a.onnx", "classes")
    if said is None:
        assert load(path, "classify", **options)
        return
    with pytest.raises(MataError, match=said):
        load(path, "classify", **options)


def test_a_map_of_a_single_class(planted, load, tmp_path):
    """What is not of the only class is of none: the mask is not the whole picture."""
    build = planted.Builder((32, 48))
    red = build.op("Unsqueeze", build.red(), build.constant([1], np.int64))
    steep = build.op("Mul", red, build.constant(8.0))
    build.give("logits", build.op("Sub", steep, build.constant(4.0)), ["batch", 1, 32, 48])
    model = load(build.save(tmp_path / "a.onnx"), "segment", **PLAIN)
    image = solid((90, 90, 90), 64, 96)
    [nothing] = model.predict([image], [SegmentParams()])
    assert nothing.segments == []
    image[16:32, 24:72] = (255, 0, 0)
    [result] = model.predict([image], [SegmentParams()])
    [found] = result.segments
    assert found.bbox == pytest.approx((24, 16, 72, 32), abs=1)
    assert found.confidence > 0.9
    assert (found.mask != (image[..., 0] == 255)).mean() < 0.03


def test_a_map_is_not_cropped(planted, load, tmp_path):
    """A network that answers for each pixel must see all of them."""
    path = planted.colours(tmp_path / "a.onnx", "map")
    with pytest.raises(MataError, match="resize: crop does not go with the layout semantic"):
        load(path, "segment", resize="crop")


@pytest.mark.parametrize("cuts", [False, True])
def test_a_processor_does_not_crop_a_map(planted, load, tmp_path, cuts):
    """Told of the whole picture, what the network says of its middle would be wrong everywhere."""
    planted.colours(tmp_path / "model.onnx", "map")
    settings = {
        "image_processor_type": "BeitImageProcessor",
        "size": {"height": 40 if cuts else 32, "width": 48},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 48},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    if not cuts:
        assert load(tmp_path, "segment")
        return
    with pytest.raises(MataError, match="cuts off parts of images"):
        load(tmp_path, "segment")


def test_devices_that_there_are_none_of(planted, context, tmp_path):
    """CUDA without a provider for it is a 503 that says what to install."""
    from mataserver import ModelSpec
    from mataserver_onnx import classify

    spec = ModelSpec("model", "classify", "local", planted.colours(tmp_path / "a.onnx", "classes"))
    with pytest.raises(Unavailable, match="install onnxruntime-gpu in its place"):
        classify.load(spec, context(device="cuda:0"))
    with pytest.raises(Unavailable, match="openvino has no device cuda:0"):
        classify.load(spec, context(device="cuda:0", runtime="openvino"))


def test_an_openvino_model_needs_openvino(classifier, load):
    """ONNX Runtime cannot read OpenVINO's files, and the error says what can."""
    with pytest.raises(Unavailable, match="needs the runtime openvino"):
        load(classifier("openvino"), "classify", runtime="onnxruntime")


def test_memory_that_runs_out_is_told_as_such(context, tmp_path):
    """What a runtime raises when it gets no memory is a 507."""
    from mataserver_onnx.options import ModelOptions, Settings
    from mataserver_onnx.session import session_config

    config = session_config(Settings(), ModelOptions(), context(), ".onnx")
    for text in ("Failed to allocate memory for requested buffer", "std::bad_alloc"):
        assert isinstance(runtime_failure(RuntimeError(text), "it failed", config), OutOfMemory)


def test_classes_of_pixels_that_exclude_no_other(planted, load, tmp_path):
    """With a sigmoid each class has its own pixels: those of neither class are not the first's."""
    build = planted.Builder((32, 32))
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0, 0] = weights[1, 2] = 12
    sums = build.op("Conv", "images", build.constant(weights), build.constant([-6, -6.1]))
    build.nodes.append(onnx.helper.make_node("Sigmoid", [sums], ["masks"]))
    sides = [*build.sides[:1], 2, 32, 32]
    build.outputs.append(onnx.helper.make_tensor_value_info("masks", build.kind, sides))
    image = solid((0, 0, 0), 32, 32)
    image[2:12, 2:12] = (255, 0, 0)
    image[20:28, 20:28] = (0, 0, 255)
    image[10:14, 10:14] = (255, 0, 255)
    [result] = load(build.save(tmp_path / "a.onnx"), "segment", **PLAIN).predict(
        [image], [SegmentParams()]
    )
    masks = {each.label: each.mask for each in result.segments}
    assert np.array_equal(masks["LABEL_0"], image[..., 0] > 0)
    assert np.array_equal(masks["LABEL_1"], image[..., 2] > 0)

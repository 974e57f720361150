"""YOLO's layouts, on networks whose answers are known: an object is found where it was planted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mataserver import MataError
from mataserver_onnx.detect import DetectParams
from mataserver_onnx.segment import SegmentParams

SCORE = 0.9
YOLO = ("yolo-v5", "yolo-v8", "yolo-v10")
# (height, width) of the picture and a rectangle in it. The networks take 64 x 96: these pictures
# fit without resizing, or are halved or doubled, so that the edges stay where they are.
EXACT = [
    ((64, 96), (10, 20, 50, 44)),
    ((64, 80), (16, 8, 24, 60)),
    ((40, 96), (0, 0, 96, 40)),
    ((64, 30), (5, 7, 29, 11)),
    ((128, 160), (32, 16, 48, 120)),
    ((80, 192), (100, 20, 180, 60)),
    ((128, 128), (0, 64, 128, 128)),
    ((32, 20), (3, 4, 18, 30)),
]


def find(model, *images, **params):
    return model.predict(list(images), [DetectParams(**params)] * len(images))


@pytest.mark.parametrize("name", YOLO)
@pytest.mark.parametrize(("size", "box"), EXACT)
def test_a_box_is_where_its_object_was_planted(name, size, box, yolo, picture):
    """The letterbox is undone to the pixel, for wide and tall pictures, larger and smaller."""
    [result] = find(yolo(name), picture(*size, box))
    [found] = result.detections
    assert found.label == "LABEL_1"
    assert found.confidence == pytest.approx(0.9, abs=1e-6)
    assert found.bbox == pytest.approx(box, abs=1e-4)


@pytest.mark.parametrize("name", YOLO)
@pytest.mark.parametrize(
    ("size", "box"), [((111, 333), (30, 20, 200, 90)), ((700, 300), (11, 333, 77, 444))]
)
def test_odd_ratios_keep_boxes_within_a_pixel(name, size, box, yolo, picture):
    """Of a picture that is resized by any ratio a box is off by no more than an input's pixel."""
    [found] = find(yolo(name), picture(*size, box))[0].detections
    assert found.bbox == pytest.approx(box, abs=max(size[0] / 64, size[1] / 96))


@pytest.mark.parametrize("name", YOLO)
def test_nothing_is_found_where_nothing_is(name, yolo, picture):
    """Without the object there is no detection; the bars of the letterbox are none either."""
    assert find(yolo(name), picture(200, 40))[0].detections == []


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("name", YOLO)
def test_batch_equals_single(name, batch, planted, load, picture, tmp_path):
    """A batch gives what its pictures give one by one, also where the network's batch is fixed."""
    model = load(planted.YOLO[name](tmp_path / "model.onnx", batch=batch), "detect")
    images = [picture(*size, box) for size, box in EXACT[:5]]
    singles = [find(model, image)[0] for image in images]
    assert find(model, *images) == singles
    assert len({single.detections[0].bbox for single in singles}) == 5


def test_the_score_of_an_only_class(planted, load, picture, tmp_path):
    """YOLOv7 ignores the number of an only class, YOLOv5, which writes metadata, does not."""
    image = picture(64, 96, (10, 20, 50, 44))
    yolo_v7 = load(planted.one_class(tmp_path / "v7.onnx"), "detect")
    yolo_v5 = load(planted.one_class(tmp_path / "v5.onnx", stride="32", names="['a']"), "detect")
    for model, score in ((yolo_v7, SCORE), (yolo_v5, SCORE / 2)):
        [found] = find(model, image, confidence=0.3)[0].detections
        assert found.confidence == pytest.approx(score, abs=1e-6)
        assert found.bbox == pytest.approx((10, 20, 50, 44), abs=1e-4)


def test_transposed_answers_are_refused_until_stated_and_then_the_same(
    planted, load, picture, tmp_path
):
    """Rows of 4 + C have no objectness, and look like those of YOLOv6 and YOLOX, which have one."""
    columns = planted.yolo_v8(tmp_path / "columns.onnx")
    network = onnx.load(columns)
    [answers] = network.graph.output
    for node in network.graph.node:
        node.output[:] = ["columns" if name == answers.name else name for name in node.output]
    turn = onnx.helper.make_node("Transpose", ["columns"], [answers.name], perm=[0, 2, 1])
    network.graph.node.append(turn)
    _, width, count = answers.type.tensor_type.shape.dim
    width.dim_value, count.dim_value = count.dim_value, width.dim_value
    onnx.save(network, tmp_path / "rows.onnx")
    with pytest.raises(MataError, match=r"yolo-v6 or yolo-v8-rows or yolox .*state the layout"):
        load(tmp_path / "rows.onnx", "detect")
    turned = load(tmp_path / "rows.onnx", "detect", layout="yolo-v8-rows")
    images = [picture(*size, box) for size, box in EXACT]
    found = find(turned, *images)
    assert found == find(load(columns, "detect"), *images)
    boxes = [each.detections[0].bbox for each in found]
    assert boxes == [pytest.approx(box, abs=0.01) for _, box in EXACT]


def test_overlapping_boxes_of_a_class_are_one(yolo, picture):
    """The weaker of two boxes goes unless ``overlap`` lets both stay."""
    model = yolo("yolo-v8")
    image = picture(64, 96, (10, 20, 50, 44))
    assert len(find(model, image)[0].detections) == 1
    both = find(model, image, overlap=0.95)[0].detections
    assert [each.confidence for each in both] == pytest.approx([0.9, 0.72], abs=1e-6)
    assert len(find(model, image, overlap=0.95, confidence=0.8)[0].detections) == 1


def test_the_best_come_first_and_the_rest_by_confidence(yolo, picture):
    """A threshold of zero returns the noise as well, in order, one box of it after suppression."""
    found = find(yolo("yolo-v5"), picture(64, 96, (40, 40, 80, 60)), confidence=0)[0].detections
    scores = [each.confidence for each in found]
    assert len(found) == 2
    assert scores == sorted(scores, reverse=True)


def test_labels_come_from_the_metadata(planted, load, picture, tmp_path):
    """Ultralytics notes the names of the classes in the file."""
    names = "{0: 'cat', 1: 'crate', 2: 'person'}"
    model = load(planted.yolo_v8(tmp_path / "model.onnx", names=names, stride="32"), "detect")
    [found] = find(model, picture(64, 96, (10, 20, 50, 44)))[0].detections
    assert found.label == "crate"


def test_the_metadata_of_a_network_that_takes_any_size(planted, load, picture, tmp_path):
    """The size that the exporter noted is used where the graph leaves it open."""
    path = planted.yolo_v8(tmp_path / "model.onnx", stride="32", imgsz="[64, 96]")
    model = onnx.load(path)
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        side.dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "anchors"
    onnx.save(model, path)
    [found] = find(load(path, "detect"), picture(128, 160, (32, 16, 48, 120)))[0].detections
    assert found.bbox == pytest.approx((32, 16, 48, 120), abs=1e-4)


def test_sides_of_minus_one_are_of_any_length(planted, load, picture, tmp_path):
    """Some exporters write -1 for what is open: the batch, and the size that the metadata has."""
    path = planted.yolo_v8(tmp_path / "model.onnx", stride="32", imgsz="[64, 96]")
    model = onnx.load(path)
    batch, _, *size = model.graph.input[0].type.tensor_type.shape.dim
    for side in (batch, *size, *model.graph.output[0].type.tensor_type.shape.dim[::2]):
        side.dim_value = -1
    onnx.save(model, path)
    images = [picture(*size, box) for size, box in EXACT[:3]]
    results = find(load(path, "detect"), *images)
    for result, (_, box) in zip(results, EXACT[:3], strict=True):
        assert result.detections[0].bbox == pytest.approx(box, abs=1e-4)


def test_halves_are_taken_and_given(planted, load, picture, tmp_path):
    """A network in 16 bits gets 16 bits; coordinates stay within its precision."""
    import onnx
    from onnx import TensorProto

    path = planted.yolo_v10(tmp_path / "model.onnx")
    model = onnx.load(path)
    [given], [answer] = model.graph.input, model.graph.output
    whole, half = onnx.helper.make_node, TensorProto.FLOAT16
    given.type.tensor_type.elem_type = answer.type.tensor_type.elem_type = half
    for node in model.graph.node:
        node.input[:] = ["wide" if name == "images" else name for name in node.input]
    model.graph.node[-1].output[0] = "narrow"
    model.graph.node.insert(0, whole("Cast", ["images"], ["wide"], to=TensorProto.FLOAT))
    model.graph.node.append(whole("Cast", ["narrow"], ["output0"], to=half))
    onnx.save(model, path)
    [found] = find(load(path, "detect"), picture(64, 96, (10, 20, 50, 44)))[0].detections
    assert found.bbox == pytest.approx((10, 20, 50, 44), abs=0.1)


@pytest.mark.parametrize("kind", ["INT64", "INT32", "FLOAT"])
def test_a_network_that_is_told_the_size(kind, planted, load, picture, tmp_path):
    """RT-DETR as deployed by its authors gets each picture's size and answers in its pixels."""
    path = planted.deployed(tmp_path / "model.onnx")
    network = onnx.load(path)
    network.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind)
    onnx.save(network, path)
    model = load(path, "detect")
    images = [picture(128, 192, (40, 20, 60, 100)), picture(64, 48, (12, 4, 36, 60))]
    results = find(model, *images)
    for result, box in zip(results, [(40, 20, 60, 100), (12, 4, 36, 60)], strict=True):
        [found] = result.detections
        assert found.bbox == pytest.approx(box, abs=1e-4)
        assert (found.label, found.confidence) == ("LABEL_1", pytest.approx(0.9, abs=1e-6))


def test_values_that_are_no_numbers_are_an_error(planted, load, picture, tmp_path):
    """A network that computes NaN is an error, not a picture without objects."""
    path = planted.yolo_v8(tmp_path / "model.onnx")
    model = onnx.load(path)
    last = model.graph.node[-1]
    model.graph.node.insert(-1, onnx.helper.make_node("Sqrt", [last.input[0]], ["rooted"]))
    negative = onnx.helper.make_node("Neg", [last.input[0]], ["negative"])
    model.graph.node.insert(len(model.graph.node) - 2, negative)
    model.graph.node[-2].input[0] = "negative"
    last = model.graph.node[-1]
    last.input[0] = "rooted"
    onnx.save(model, path)
    with pytest.raises(MataError, match="NaN or infinite values"):
        find(load(path, "detect"), picture(64, 96, (10, 20, 50, 44)))


# masks


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 96), (8, 20, 48, 44)),
        ((64, 80), (16, 8, 24, 60)),
        ((40, 96), (4, 0, 96, 24)),
    ],
)
def test_a_mask_covers_its_object(size, box, planted, load, picture, tmp_path_factory):
    """The mask is the planted rectangle to the pixel, and the box spans it."""
    path = planted.yolo_seg(tmp_path_factory.getbasetemp() / "seg.onnx")
    image = picture(*size, box)
    [result] = load(path, "segment").predict([image], [SegmentParams()])
    [found] = result.segments
    expected = np.zeros(size, bool)
    expected[box[1] : box[3], box[0] : box[2]] = True
    assert found.mask.dtype == bool
    assert np.array_equal(found.mask, expected)
    assert found.bbox == box
    assert (found.label, found.confidence) == ("LABEL_1", pytest.approx(0.9, abs=1e-6))


def test_a_mask_is_of_the_pictures_size(planted, load, picture, tmp_path):
    """Of a picture twice as large the mask is as large, and covers what it should but for edges."""
    box = (32, 16, 64, 120)
    image = picture(128, 160, box)
    [result] = load(planted.yolo_seg(tmp_path / "seg.onnx"), "segment").predict(
        [image], [SegmentParams()]
    )
    expected = np.zeros((128, 160), bool)
    expected[box[1] : box[3], box[0] : box[2]] = True
    mask = result.segments[0].mask
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


def test_no_mask_without_an_object(planted, load, picture, tmp_path):
    """Where nothing is red there is no segment."""
    model = load(planted.yolo_seg(tmp_path / "seg.onnx"), "segment")
    assert model.predict([picture(64, 96)], [SegmentParams()])[0].segments == []

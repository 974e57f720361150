"""Recognising what outputs mean from a graph, and what happens where that fails."""

from __future__ import annotations

import pytest

from mataserver import MataError
from mataserver_onnx import layouts, outputs
from mataserver_onnx.graph import Graph, Port
from mataserver_onnx.options import ModelOptions

ANY = ModelOptions()


def noted(task="", names=80, **more):
    """The metadata of an export by Ultralytics; without a task by YOLOv5."""
    noted = {"stride": "32", "names": str(dict.fromkeys(range(names), "x"))}
    return noted | ({"task": task} if task else {}) | {k: str(v) for k, v in more.items()}


def network(*outputs, side=(640, 640), metadata=None, inputs=()):
    """A graph whose outputs are pairs of a name and sides."""
    image = Port("images", ("batch", 3, *side))
    ports = tuple(Port(name, tuple(dims)) for name, dims in outputs)
    return Graph((image, *(Port(name, ()) for name in inputs)), ports, metadata or {})


def only(*dims, **options):
    return network(("output0", dims), **options)


def seg(*dims, **options):
    """A network with prototypes of masks for inputs of 640 x 640."""
    return network(("output0", dims), ("output1", (1, 32, 160, 160)), **options)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (only(1, 25200, 85), {"yolo-v5"}),
        (only(1, 18900, 85, side=(480, 640)), {"yolo-v5"}),
        (only(1, 102000, 85, side=(1280, 1280)), {"yolo-v5"}),
        (only(1, 25200, 6), {"yolo-v5"}),
        (only(1, 84, 8400), {"yolo-v8"}),
        (only(1, 6, 8400), {"yolo-v8"}),
        (only(1, 84, 34000), {"yolo-v8"}),
        (only(1, 5, 6300, side=(480, 640)), {"yolo-v8"}),
        (only("batch", 84, "anchors", side=("h", "w"), metadata=noted()), {"yolo-v8"}),
        (only("batch", "anchors", 85, side=("h", "w"), metadata=noted()), {"yolo-v5"}),
        (only(1, 300, 6), {"yolo-v10"}),
        (only(1, 300, 6, side=("h", "w")), {"yolo-v10"}),
        (only(1, 300, 84), {"rt-detr-ultralytics"}),
        (only(1, 84, "anchors", side=("h", "w")), set()),
        (seg(1, 116, 8400), {"yolo-seg"}),
        (seg(1, 25200, 117), {"yolo-v5-seg"}),
        (seg(1, 300, 38), {"yolo-v26-seg"}),
        (seg(1, 300, 40), set()),
        (only(1, 1000, 1, 1), {"classes"}),
        (network(("a", (1, 1000)), ("b", (1, 512))), {"classes"}),
        (network(("dets", (1, 300, 4)), ("labels", (1, 300, 91))), {"rf-detr"}),
        (
            network(("dets", (1, 300, 4)), ("labels", (1, 300, 91)), ("masks", (1, 300, 160, 160))),
            {"rf-detr-seg"},
        ),
        (network(("dets", (1, 100, 5)), ("labels", (1, 100))), set()),  # mmdetection's
        (only(1, 1000), {"classes", "vector"}),
        (network(("logits", ("b", 1000))), {"classes"}),
        (network(("logits", ("b", 150, 128, 128))), {"semantic"}),
        (network(("logits", (1, 20, 30)), ("other", (1, 2))), set()),
        (network(("out", (1, 21, 520, 520)), ("aux", (1, 21, 520, 520))), set()),
        (only(1, 21, 640, 640), {"semantic"}),
        (only("b", "classes", 160, 160), {"semantic"}),
        (only("b", "classes", "h", "w", side=("h", "w")), {"semantic"}),
        (only("b", "h", "w", 21, side=("h", "w")), set()),
        (only("b", "h", "w", 1, side=("h", "w")), set()),
        (network(("logits", ("b", "h", "w", 21)), side=("h", "w")), set()),
        (network(("logits", (1, 640, 640, 21))), set()),
        (only(1, 1, 640, 640), {"depth"}),
        (only(1, 640, 640), {"depth"}),
        (only(1, 1, 200, 7), set()),
        (only(1, 71, 1, 18), set()),
        (only(1, 21, 81, 80), {"semantic"}),
        (only(1, 320, 480, side=(480, 640)), set()),
        (network(("predicted_depth", ("b", "h", "w"))), {"depth"}),
        (network(("last_hidden_state", (1, 257, 384)), ("pooler_output", (1, 384))), {"vector"}),
        (network(("image_embeds", (1, 512))), {"vector"}),
        (
            network(
                ("labels", (1, 300)),
                ("boxes", (1, 300, 4)),
                ("scores", (1, 300)),
                inputs=("orig_target_sizes",),
            ),
            {"rt-detr-deploy"},
        ),
        (network(("labels", (1,)), ("boxes", (1, 4)), ("scores", (1,))), set()),
        (Graph((Port("x", (1, 4)),), (Port("y", (1, 1000)),)), set()),
    ],
)
def test_layouts_are_recognised(graph, expected):
    """The shapes that exporters write are told apart; what may be two things is not guessed."""
    assert layouts.candidates(graph, {}) == expected


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (only(1, 84, 8400, metadata=noted("detect")), "yolo-v8"),
        (only(1, 84, 8400, metadata=noted("detect", end2end=False)), "yolo-v8"),
        (only(1, 6, 8400, metadata=noted("detect", names=2)), "yolo-v8"),
        (only(1, 5, 8400, metadata=noted("detect", names=1)), "yolo-v8"),
        (only(1, 20, 8400, metadata=noted("detect", names=16)), "yolo-v8"),
        (only(1, 20, 8400, metadata=noted("obb", names=15)), "yolo-obb"),
        (only(1, 6, 8400, metadata=noted("obb", names=1)), "yolo-obb"),
        (only(1, 56, 8400, metadata=noted("detect", names=52)), "yolo-v8"),
        (only(1, 56, 8400, metadata=noted("pose", names=1, kpt_shape=[17, 3])), "yolo-pose"),
        (only(1, 14, 8400, metadata=noted("pose", names=2, kpt_shape=[4, 2])), "yolo-pose"),
        (only(1, 56, 8400, metadata={"task": "pose", "stride": "32"}), "yolo-pose"),
        (only("b", 56, "n", side=("h", "w"), metadata=noted("pose", names=1)), "yolo-pose"),
        (seg(1, 116, 8400, metadata=noted("segment")), "yolo-seg"),
        (seg(1, 25200, 117, metadata=noted()), "yolo-v5-seg"),
        (seg(1, 300, 38, metadata=noted("segment", end2end=True)), "yolo-v26-seg"),
        (only(1, 300, 57, metadata=noted("pose", names=1, end2end=True)), "yolo-v26-pose"),
        (only(1, 300, 7, metadata=noted("obb", names=15, end2end=True)), "yolo-v26-obb"),
        (only(1, 300, 6, metadata=noted("detect", end2end=True)), "yolo-v10"),
        (only(1, 300, 6, metadata=noted("detect", args={"nms": True})), "yolo-v10"),
        (only(1, 300, 6, metadata=noted("detect", description="Ultralytics YOLOv10n")), "yolo-v10"),
        (only(1, 300, 6, metadata=noted("detect")), "yolo-v10"),
        (only(1, 300, 6, metadata=noted("detect", names=2, end2end=True)), "yolo-v10"),
        (
            only(1, 300, 6, metadata=noted("detect", names=2, description="Ultralytics rtdetr-l")),
            "rt-detr-ultralytics",
        ),
        (
            only(1, 300, 7, metadata=noted("detect", 3, description="RT-DETR-x", end2end=False)),
            "rt-detr-ultralytics",
        ),
        (only("b", "n", 6, side=("h", "w"), metadata=noted("detect", end2end=True)), "yolo-v10"),
        (only("b", 300, "n", side=("h", "w"), metadata=noted("detect", end2end=True)), "yolo-v10"),
        (only("b", "n", 6, metadata=noted("detect", args={"nms": True})), "yolo-v10"),
        (
            only("b", "n", "m", metadata=noted("pose", names=1, end2end=True)),
            "yolo-v26-pose",
        ),
        (only("b", 300, "n", metadata=noted("obb", names=15, end2end=True)), "yolo-v26-obb"),
        (seg("b", 300, "n", metadata=noted("segment", end2end=True)), "yolo-v26-seg"),
        (
            only("b", 300, "n", metadata=noted("detect", 2, description="Ultralytics RT-DETR-l")),
            "rt-detr-ultralytics",
        ),
        (only(1, 80, metadata=noted("classify")), "classes"),
    ],
)
def test_metadata_is_read_first(graph, expected):
    """The exporter's notes tell apart what has one shape, and what has one class or two."""
    assert layouts.candidates(graph, {}) == {expected}


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (only(1, 56, 8400), "yolo-pose or yolo-v8"),
        (only(1, 20, 8400), "yolo-obb or yolo-v8"),
        (only(1, 300, 57), "rt-detr-ultralytics or yolo-v26-pose"),
        (only(1, 300, 7), "rt-detr-ultralytics or yolo-v26-obb"),
        (only(1, 300, 6, metadata=noted("detect", names=2)), "rt-detr-ultralytics or yolo-v10"),
    ],
)
def test_two_layouts_that_fit_are_refused(graph, said):
    """Both are named, the outputs, and the setting that decides."""
    message = rf"its outputs output0 \[.*\] may be those of {said}; state the layout under plugins"
    with pytest.raises(MataError, match=message):
        layouts.candidates(graph, {})


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (only(1, 84, 8400, metadata=noted("pose")), "task pose.*are those of yolo-v8"),
        (only(1, 84, 8400, metadata=noted("segment")), "task segment.*are those of yolo-v8"),
        (only(1, 84, 8400, metadata=noted("detect", names=3)), "3 classes.*are no such ones"),
        (only(1, 84, 8400, metadata=noted("detect", end2end=True)), "True.*are those of yolo-v8"),
        (only(1, 300, 6, metadata=noted("detect", end2end=False)), "False.*those of yolo-v10"),
        (only(1, 56, 8400, metadata=noted("pose", 1, kpt_shape=[9, 3])), r"\[9, 3\].*no such ones"),
        (seg(1, 116, 8400, metadata=noted("detect")), "task detect.*are those of yolo-seg"),
        (seg(1, 116, 8400, metadata=noted("segment", names=79)), "79 classes.*are no such ones"),
        (only(1, 84, 8400, metadata=noted("detect", description="rtdetr-l")), "rt-detr.*yolo-v8"),
        (only(1, 84, 8400, metadata=noted("classify")), "task classify.*output0"),
        (only(1, 1000, metadata=noted("detect")), "task detect.*output0"),
        (only(1, 84, 8400, metadata=noted("levitate")), "task levitate.*output0"),
    ],
)
def test_a_contradiction_is_refused(graph, said):
    """What the metadata says and what the outputs are is told, and the setting that decides."""
    with pytest.raises(MataError, match=f"its metadata says.*{said}.*state the layout under"):
        layouts.candidates(graph, {})


def test_what_is_stated_overrules_the_metadata():
    """The settings decide what the file contradicts itself about."""
    graph = only(1, 84, 8400, metadata=noted("pose"))
    assert layouts.choose(graph, {}, "detect", ModelOptions(layout="yolo-v8")) == "yolo-v8"
    other = only(1, 32, 8400)
    stated = ModelOptions(layout="yolo-pose", keypoints=(9, 3))
    assert layouts.choose(other, {}, "pose", stated) == "yolo-pose"
    assert outputs.class_count(other, {}, "yolo-pose", stated) == 1
    said = "yolo-pose has 55 others, 51 of them for keypoints; state keypoints, or another layout"
    with pytest.raises(MataError, match=said):
        outputs.class_count(other, {}, "yolo-pose", ANY)


@pytest.mark.parametrize(
    ("graph", "layout", "others"),
    [
        (only(1, 5, 8400), "yolo-obb", "5 others"),
        (only(1, 25200, 5), "yolo-v5", "5 others"),
        (seg(1, 36, 8400), "yolo-seg", "36 others, 32 of them for a mask"),
    ],
)
def test_a_stated_layout_without_a_class_is_refused(graph, layout, others):
    """What is told is about the layout that was stated: a rotated box has no keypoints."""
    said = f"no number of a class: an answer of {layout} has {others}; state another layout under"
    with pytest.raises(MataError, match=said):
        outputs.class_count(graph, {}, layout, ModelOptions(layout=layout))


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (("logits", "features"), {}, "logits"),
        (("scores", "features"), {"id2label": dict.fromkeys(range(9), "x")}, "scores"),
        (("features", "end"), {}, "end"),
        (("a", "b"), {}, None),
    ],
)
def test_the_classes_among_two_outputs(names, options, expected):
    """By its name, its number of classes or its softmax; else the settings must say which."""
    sides = {"logits": 9, "scores": 9, "end": 9}
    ports = [Port(name, ("b", sides.get(name, 512))) for name in names]
    graph = Graph((Port("images", (1, 3, 8, 8)),), tuple(ports), ends={"end": ("Cast", "Softmax")})
    if expected is not None:
        assert outputs.class_output(graph, options, ANY).name == expected
        return
    with pytest.raises(MataError, match=r"may each hold the classes: state output under plugins"):
        outputs.class_output(graph, options, ANY)
    assert outputs.class_output(graph, options, ModelOptions(output="b")).name == "b"


DETR = network(("logits", ("b", 300, 80)), ("pred_boxes", ("b", 300, 4)))


@pytest.mark.parametrize(
    ("config", "metadata", "expected"),
    [
        ({"model_type": "rt_detr_v2"}, {}, {"rt-detr"}),
        ({"model_type": "detr"}, {}, {"detr"}),
        ({"id2label": dict.fromkeys(range(80), "x")}, {}, {"rt-detr"}),
        ({"id2label": dict.fromkeys(range(79), "x")}, {}, {"detr"}),
        ({}, {"names": str(list(range(79)))}, {"detr"}),
        ({}, {}, {"detr", "rt-detr"}),
        ({"id2label": {"0": "x"}}, {}, {"detr", "rt-detr"}),
    ],
)
def test_detrs_are_told_apart(config, metadata, expected):
    """By the family, else by the labels: there is one more class where the last is "nothing"."""
    graph = Graph(DETR.inputs, DETR.outputs, metadata)
    assert layouts.candidates(graph, config) == expected


@pytest.mark.parametrize("sides", [("b", "h", "w", 21), (1, 640, 640, 21)])
def test_classes_behind_the_places_are_refused(sides):
    """Read as ``semantic``, the rows of TensorFlow's maps would be the classes, also if stated."""
    for options in (ANY, ModelOptions(layout="semantic")):
        with pytest.raises(MataError, match="output0"):
            layouts.choose(only(*sides), {}, "segment", options)


def test_the_task_chooses():
    """One output can be classes or a vector; the task says which."""
    graph = only(1, 1000)
    assert layouts.choose(graph, {}, "classify", ANY) == "classes"
    assert layouts.choose(graph, {}, "embed", ANY) == "vector"


def test_numbers_of_classes_are_no_depth_and_shares_no_vector():
    """The class of each pixel is not how far it is, and probabilities are not an image's vector."""
    image = Port("images", (1, 3, 64, 64))
    best = Graph((image,), (Port("out", (1, 1, 64, 64), kind=7),))
    assert layouts.candidates(best, {}) == set()
    shares = Graph((image,), (Port("out", (1, 9)),), ends={"out": ("Cast", "Softmax")})
    assert layouts.candidates(shares, {}) == {"classes"}


@pytest.mark.parametrize("sides", [("b", 1, 64, 64), ("b", 21, 64, 64)])
def test_numbers_of_classes_are_no_scores_of_them(sides):
    """The sigmoid of a class's number would make every pixel one of the first class."""
    image = Port("images", (1, 3, 64, 64))
    for name, options in (("logits", ANY), ("out", ModelOptions(layout="semantic"))):
        best = Graph((image,), (Port(name, sides, kind=7),))
        with pytest.raises(MataError, match=r"not recognised|not those of semantic"):
            layouts.choose(best, {}, "segment", options)


def test_a_stated_layout_counts():
    """What is not recognised can be stated, if it may be that."""
    graph = only(1, 8400, 85)
    for name in ("yolo-v5", "yolox", "yolo-v8-rows"):
        assert layouts.choose(graph, {}, "detect", ModelOptions(layout=name)) == name
    stated = ModelOptions(layout="rt-detr")
    assert layouts.choose(DETR, {"model_type": "detr"}, "detect", stated) == "rt-detr"


@pytest.mark.parametrize(
    ("graph", "task", "stated", "said"),
    [
        (only(1, 9, 9, 9), "detect", None, r"not recognised.*yolo-v5.*output0 \[1, 9, 9, 9\]"),
        (
            only(1, 8400, 85),
            "detect",
            None,
            r"output0 \[1, 8400, 85\] may be those of yolo-v6 or yolo-v8-rows or yolox or yolox-d",
        ),
        (only(1, 8400, 5), "detect", None, "may be those of yolo-v8-rows; state the layout"),
        (only(1, 1000), "detect", None, "not recognised"),
        (DETR, "detect", None, "may be those of detr or rt-detr"),
        (only(1, 84, 8400), "segment", "yolo-v8", "for the task detect, not segment"),
        (only(1, 1000), "detect", "yolo-v8", "not those of yolo-v8"),
        (only(1, 84, 8400), "detect", "detr", "not those of detr"),
        (Graph((Port("x", (1, 4)),), (Port("y", (1,)),)), "detect", None, r"no image.*x \[1, 4\]"),
    ],
)
def test_errors_name_the_outputs(graph, task, stated, said):
    """What cannot be read is told with the outputs that it has and the layouts that are known."""
    with pytest.raises(MataError, match=said):
        layouts.choose(graph, {}, task, ModelOptions(layout=stated))


def test_the_image_is_found_among_the_inputs():
    """An input of three colours, or else one that leaves their number open."""
    mask = Port("mask", ("b", 1, 64, 64))
    free = Port("pixel_values", ("batch_size", "num_channels", "height", "width"))
    image = Port("images", (1, 3, 64, 64))
    output = (Port("logits", (1, 9)),)
    assert outputs.image_input(Graph((mask, free), output)) == free
    assert outputs.image_input(Graph((mask, free, image), output)) == image
    assert outputs.image_input(Graph((mask,), output)) is None
    last = Port("pixels", ("b", "h", "w", 3))
    assert outputs.image_input(Graph((mask, last), output)) == last
    assert (outputs.channels_last(last), outputs.channels_last(image)) == (True, False)
    assert outputs.graph_size(Graph((Port("x", (1, 48, 64, 3)),), output)) == (48, 64)
    assert layouts.candidates(Graph((free,), output), {}) == {"classes"}


@pytest.mark.parametrize(
    ("graph", "layout", "expected"),
    [
        (DETR, "detr", 79),
        (DETR, "rt-detr", 80),
        (only(1, 25200, 85), "yolo-v5", 80),
        (only(1, 84, 8400), "yolo-v8", 80),
        (only(1, 8400, 84), "yolo-v8-rows", 80),
        (only(1, 300, 6), "yolo-v10", None),
        (only(1, 56, 8400), "yolo-pose", 1),
        (only(1, 20, 8400), "yolo-obb", 15),
        (only(1, 300, 84), "rt-detr-ultralytics", 80),
        (network(("output0", (1, 116, 8400)), ("p", (1, 32, 160, 160))), "yolo-seg", 80),
        (only("b", 1000), "classes", 1000),
        (only("b", "classes"), "classes", None),
        (network(("logits", ("b", 150, 128, 128))), "semantic", 150),
        (only(1, 640, 640), "depth", None),
    ],
)
def test_classes_are_counted(graph, layout, expected):
    """The number of classes is read off the graph, where its file says it."""
    assert outputs.class_count(graph, {}, layout, ANY) == expected


def test_every_layout_has_a_task_and_a_name():
    """The settings offer the layouts that there are."""
    from typing import get_args

    from mataserver_onnx.options import LayoutName

    assert set(get_args(LayoutName)) == set(layouts.TASKS)

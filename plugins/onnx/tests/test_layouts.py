"""Recognising what outputs mean from a graph, and what happens where that fails."""

from __future__ import annotations

import pytest

from mataserver import MataError
from mataserver_onnx import layouts
from mataserver_onnx.graph import Graph, Port

ULTRALYTICS = {"stride": "32", "names": "{0: 'a', 1: 'b'}"}


def network(*outputs, side=(640, 640), metadata=None, inputs=()):
    """A graph whose outputs are pairs of a name and sides."""
    image = Port("images", ("batch", 3, *side))
    ports = tuple(Port(name, tuple(dims)) for name, dims in outputs)
    return Graph((image, *(Port(name, ()) for name in inputs)), ports, metadata or {})


def only(*dims, **options):
    return network(("output0", dims), **options)


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
        (only("batch", 84, "anchors", side=("h", "w"), metadata=ULTRALYTICS), {"yolo-v8"}),
        (only("batch", "anchors", 85, side=("h", "w"), metadata=ULTRALYTICS), {"yolo-v5"}),
        (only(1, 300, 6), {"yolo-v10"}),
        (only(1, 300, 6, side=("h", "w")), {"yolo-v10"}),
        (only(1, 8400, 85), set()),  # YOLOv6 or YOLOX
        (only(1, 300, 84), set()),
        (only(1, 84, "anchors", side=("h", "w")), set()),
        (network(("output0", (1, 116, 8400)), ("output1", (1, 32, 160, 160))), {"yolo-seg"}),
        (only(1, 1000), {"classes", "vector"}),
        (network(("logits", ("b", 1000))), {"classes"}),
        (network(("logits", ("b", 150, 128, 128))), {"semantic"}),
        (network(("logits", (1, 20, 30)), ("other", (1, 2))), set()),
        (network(("out", (1, 21, 520, 520)), ("aux", (1, 21, 520, 520))), set()),
        (only(1, 21, 640, 640), {"semantic"}),
        (only(1, 1, 640, 640), {"depth"}),
        (only(1, 640, 640), {"depth"}),
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


def test_the_task_chooses():
    """One output can be classes or a vector; the task says which."""
    graph = only(1, 1000)
    assert layouts.choose(graph, {}, "classify", None) == "classes"
    assert layouts.choose(graph, {}, "embed", None) == "vector"


def test_a_stated_layout_counts():
    """What is not recognised can be stated, if it may be that."""
    assert layouts.choose(only(1, 8400, 85), {}, "detect", "yolo-v5") == "yolo-v5"
    assert layouts.choose(DETR, {"model_type": "detr"}, "detect", "rt-detr") == "rt-detr"


@pytest.mark.parametrize(
    ("graph", "task", "stated", "said"),
    [
        (only(1, 8400, 85), "detect", None, r"not recognised.*yolo-v5.*output0 \[1, 8400, 85\]"),
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
        layouts.choose(graph, {}, task, stated)


def test_the_image_is_found_among_the_inputs():
    """An input of three colours, or else one that leaves their number open."""
    mask = Port("mask", ("b", 1, 64, 64))
    free = Port("pixel_values", ("batch_size", "num_channels", "height", "width"))
    image = Port("images", (1, 3, 64, 64))
    output = (Port("logits", (1, 9)),)
    assert layouts.image_input(Graph((mask, free), output)) == free
    assert layouts.image_input(Graph((mask, free, image), output)) == image
    assert layouts.image_input(Graph((mask,), output)) is None
    assert layouts.candidates(Graph((free,), output), {}) == {"classes"}


@pytest.mark.parametrize(
    ("graph", "layout", "expected"),
    [
        (DETR, "detr", 79),
        (DETR, "rt-detr", 80),
        (only(1, 25200, 85), "yolo-v5", 80),
        (only(1, 84, 8400), "yolo-v8", 80),
        (only(1, 300, 6), "yolo-v10", None),
        (network(("output0", (1, 116, 8400)), ("p", (1, 32, 160, 160))), "yolo-seg", 80),
        (only("b", 1000), "classes", 1000),
        (only("b", "classes"), "classes", None),
        (network(("logits", ("b", 150, 128, 128))), "semantic", 150),
        (only(1, 640, 640), "depth", None),
    ],
)
def test_classes_are_counted(graph, layout, expected):
    """The number of classes is read off the graph, where its file says it."""
    assert layouts.classes(graph, layout) == expected


def test_every_layout_has_a_task_and_a_name():
    """The settings offer the layouts that there are."""
    from typing import get_args

    from mataserver_onnx.options import LayoutName

    assert set(get_args(LayoutName)) == set(layouts.TASKS)

"""Pose: ViTPose and ViTPose+ against transformers itself, behind detectors of people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mataserver import (
    Detection,
    DetectResult,
    LoadedPart,
    MataError,
    ModelFiles,
    ModelSpec,
    Params,
    Part,
)
from mataserver_hf import detect, pose
from mataserver_hf.options import Settings

FAMILIES = ("vitpose", "vitpose_plus")
BOX = (10.0, 20.0, 110.0, 140.0)
OTHER = (60.0, 5.0, 130.0, 60.0)


class Planned:
    """A detector that finds what it was told, and remembers what it was asked."""

    def __init__(self, *found: Detection) -> None:
        self.found = found
        self.asked = []

    def predict(self, images, params):
        self.asked.append(params)
        return [DetectResult(list(self.found)) for _ in images]


class NoParams(Params, frozen=True):
    """A detector without a threshold."""


class Prompted(Params, frozen=True):
    """A detector that must be told what to look for."""

    prompts: tuple[str, ...]
    confidence: float = 0.3


def person(score=0.9, box=BOX, label="person"):
    return Detection(label, score, box)


@pytest.fixture(scope="session")
def estimator(checkpoint, session_context):
    """``estimator(name, detector)`` is a pose model with that detector in front of it."""

    def load(name, detector, params=detect.DetectParams, **settings):
        context = dataclasses.replace(
            session_context,
            settings=Settings(**settings),
            parts={"person": LoadedPart(detector, params)},
        )
        return pose.load(ModelSpec(f"tiny/{name}", "pose", "hf", checkpoint(name)), context)

    return load


def directly(path, image, boxes):
    """What transformers itself says about the people in ``boxes``: 17 rows of x, y, score each."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, VitPoseForPoseEstimation

    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    network = VitPoseForPoseEstimation.from_pretrained(path, local_files_only=True).eval()
    asked = [[[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]]
    tensors = processor(images=Image.fromarray(image), boxes=asked, return_tensors="pt")
    if network.config.backbone_config.num_experts > 1:
        tensors["dataset_index"] = torch.zeros(len(boxes), dtype=torch.long)
    with torch.inference_mode():
        output = network(**tensors)
    [people] = processor.post_process_pose_estimation(output, boxes=asked)
    return [torch.cat([each["keypoints"], each["scores"][:, None]], 1).numpy() for each in people]


def clipped(rows, height, width):
    return np.clip(rows, 0, [width, height, 1])


def joints(item):
    return np.array(item.keypoints)


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_transformers(name, estimator, checkpoint, picture):
    """Two people of one image get the joints of a direct call, held within the image and 0..1."""
    image = picture(160, 140)
    model = estimator(name, Planned(person(), person(0.8, OTHER)))
    [result] = model.predict([image], [pose.PoseParams()])
    expected = directly(checkpoint(name), image, [BOX, OTHER])
    assert [(each.label, each.confidence, each.bbox) for each in result.keypoints] == [
        ("person", 0.9, BOX),
        ("person", 0.8, OTHER),
    ]
    for item, rows in zip(result.keypoints, expected, strict=True):
        assert len(item.keypoints) == 17
        np.testing.assert_allclose(joints(item), clipped(rows, 160, 140), atol=1e-3)
    assert not np.allclose(*expected)


def test_a_real_detector_in_front(estimator, checkpoint, model, picture):
    """People that RT-DETR finds get joints, and what it takes for something else gets none."""
    image = picture(90, 150)
    everything = detect.DetectParams(confidence=0.0)
    [found] = model("rt_detr").predict([image], [everything])
    boxes = [each.bbox for each in found.detections if each.label == "person"]
    assert 0 < len(boxes) < len(found.detections)
    whole = estimator("vitpose", model("rt_detr"))
    [result] = whole.predict([image], [pose.PoseParams(confidence=0.0)])
    assert [each.bbox for each in result.keypoints] == boxes
    expected = directly(checkpoint("vitpose"), image, boxes)
    for item, rows in zip(result.keypoints, expected, strict=True):
        np.testing.assert_allclose(joints(item), clipped(rows, 90, 150), atol=1e-2)


def test_joints_lie_where_the_picture_says(estimator):
    """A network that follows brightness puts every joint into the white square, in its pixels."""
    image = np.zeros((160, 140, 3), np.uint8)
    image[80:122, 39:81] = 255
    [result] = estimator("vitpose_bright", Planned(person())).predict([image], [pose.PoseParams()])
    [item] = result.keypoints
    np.testing.assert_allclose(joints(item)[:, :2], np.tile([60, 101], (17, 1)), atol=3)
    assert all(0.5 < score <= 1 for score in joints(item)[:, 2])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_equals_its_images(name, estimator, picture):
    """Images of several sizes in a batch give what they give one by one, in their order."""
    images = [picture(160, 140), picture(120, 200, seed=1), picture(90, 90, seed=2)]
    wanted = [pose.PoseParams(confidence=each) for each in (0.0, 0.85, 0.95)]
    model = estimator(name, Planned(person(), person(0.8, OTHER)))
    together = model.predict(images, wanted)
    assert [len(each.keypoints) for each in together] == [2, 1, 0]
    for image, params, result in zip(images, wanted, together, strict=True):
        [alone] = model.predict([image], [params])
        for one, other in zip(alone.keypoints, result.keypoints, strict=True):
            assert one.bbox == other.bbox
            np.testing.assert_allclose(joints(one), joints(other), atol=1e-2)


def test_a_crowd_is_looked_at_in_groups(estimator, picture):
    """More people than share a forward pass keep their order and their joints."""
    image = picture(160, 140)
    boxes = [(float(x), 10.0, x + 60.0, 120.0) for x in range(0, 76, 4)]
    assert len(boxes) > pose.PEOPLE_PER_PASS
    crowd = estimator("vitpose", Planned(*(person(box=box) for box in boxes)))
    [result] = crowd.predict([image], [pose.PoseParams()])
    assert [each.bbox for each in result.keypoints] == boxes
    [last] = estimator("vitpose", Planned(person(box=boxes[-1]))).predict(
        [image], [pose.PoseParams()]
    )
    np.testing.assert_allclose(joints(result.keypoints[-1]), joints(last.keypoints[0]), atol=1e-2)


def test_confidence_chooses_people(estimator, picture):
    """The parameter is a threshold on the detector's score: 0.5 unless given, and inclusive."""
    model = estimator("vitpose", Planned(person(0.9), person(0.5, OTHER), person(0.4)), NoParams)
    image = picture(160, 140)
    results = model.predict(
        [image] * 3,
        [pose.PoseParams(), pose.PoseParams(confidence=0.0), pose.PoseParams(confidence=0.95)],
    )
    assert [[each.confidence for each in result.keypoints] for result in results] == [
        [0.9, 0.5],
        [0.9, 0.5, 0.4],
        [],
    ]


def test_no_person_is_an_empty_list(estimator, picture):
    """An image without people has no items, also where something else or nothing wide is found."""
    nothing = [person(label="dog"), person(box=(10.0, 0.0, 10.0, 50.0))]
    for detector in (Planned(), Planned(*nothing)):
        [result] = estimator("vitpose", detector).predict([picture(60, 60)], [pose.PoseParams()])
        assert result.keypoints == []


def test_the_label_of_a_person_is_a_setting(estimator, picture):
    """A detector may call people by another name; the answer calls them person all the same."""
    found = Planned(person(label="Pedestrian"), person(0.8, OTHER))
    model = estimator("vitpose", found, person_label="pedestrian")
    [result] = model.predict([picture(160, 140)], [pose.PoseParams()])
    assert [(each.label, each.confidence) for each in result.keypoints] == [("person", 0.9)]


@pytest.mark.parametrize("labels", [["dog", "Person"], {0: "dog", 1: "Person"}])
def test_a_detector_without_people_is_refused(estimator, labels):
    """One that states its labels, none of them a person, would find nobody in any image."""
    found = Planned()
    found.labels = labels
    estimator("vitpose", found)
    said = r"person_label: the detector of people has no label 'human'; it has dog, Person$"
    with pytest.raises(MataError, match=said):
        estimator("vitpose", found, person_label="human")


def test_a_detector_is_asked_what_it_takes(estimator, picture):
    """A threshold and the label as prompt reach the detectors that have such parameters."""
    for params, asked in (
        (detect.DetectParams, detect.DetectParams(confidence=0.7)),
        (Prompted, Prompted(prompts=("person",), confidence=0.7)),
        (NoParams, NoParams()),
    ):
        detector = Planned()
        model = estimator("vitpose", detector, params)
        model.predict([picture(60, 60)], [pose.PoseParams(confidence=0.7)])
        assert detector.asked == [[asked]]


@pytest.mark.parametrize("shape", [(3, 40), (1, 30), (40, 1), (1, 1)])
def test_narrow_images_keep_their_layout(shape, estimator, picture):
    """A picture of one to three rows is not taken for a channels-first one."""
    height, width = shape
    model = estimator("vitpose", Planned(person(box=(0.0, 0.0, width, height))))
    image = picture(*shape)
    taller = np.concatenate([image, np.zeros((40, width, 3), np.uint8)])
    [result] = model.predict([image], [pose.PoseParams()])
    [same] = model.predict([taller], [pose.PoseParams()])
    assert joints(result.keypoints[0])[:, 2] == pytest.approx(joints(same.keypoints[0])[:, 2])


def test_overflow_is_an_error(estimator, picture):
    """Heatmaps of NaN are an error, not joints in a corner."""
    import torch

    model = estimator("vitpose", Planned(person()))
    with torch.no_grad():
        model._network._module.head.conv.bias.fill_(float("nan"))
    with pytest.raises(MataError, match="no numbers"):
        model.predict([picture(60, 160)], [pose.PoseParams()])


def test_half_precision_is_answered_in_floats(checkpoint, session_context, picture):
    """Heatmaps in bfloat16, which numpy does not know, are read as well."""
    context = dataclasses.replace(
        session_context,
        dtype="bfloat16",
        settings=Settings(),
        parts={"person": LoadedPart(Planned(person()), NoParams)},
    )
    model = pose.load(ModelSpec("tiny/half", "pose", "hf", checkpoint("vitpose_plus")), context)
    [result] = model.predict([picture(160, 140)], [pose.PoseParams()])
    assert np.isfinite(joints(result.keypoints[0])).all()


def test_the_detector_is_a_part():
    """The settings name the detector: by default an RT-DETR that knows people."""
    files = ModelFiles("usyd-community/vitpose-plus-base", "hf", config={"model_type": "vitpose"})
    assert pose.BACKEND.serves(files, "pose")
    assert pose.BACKEND.parts(files, Settings()) == {
        "person": Part("PekingU/rtdetr_r50vd_coco_o365", "detect")
    }
    other = Settings(person_detector="opencv-people")
    assert pose.BACKEND.parts(files, other)["person"] == Part("opencv-people", "detect")


def test_checkpoint_of_another_task_is_refused(checkpoint, session_context):
    """A classifier is no pose estimator, and the answer holds no path."""
    context = dataclasses.replace(
        session_context,
        settings=Settings(),
        parts={"person": LoadedPart(Planned(), NoParams)},
    )
    with pytest.raises(MataError) as caught:
        pose.load(ModelSpec("tiny/vit", "pose", "hf", checkpoint("vit")), context)
    assert (
        caught.value.detail == "the weights of tiny/vit cannot be read; the server's log says why"
    )

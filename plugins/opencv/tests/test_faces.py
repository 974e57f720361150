"""The face detector on a real photograph."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_opencv.faces import FaceParams, confidence_of

FACE = (177, 66, 272, 161)


@pytest.fixture(scope="module")
def faces(load):
    return load("opencv-faces")


def found(model, image, **params):
    return model.predict([image], [FaceParams(**params)])[0].detections


def test_the_astronauts_face_is_found(faces, picture):
    """One face, where it is, with a confidence well above the undecided 0.5."""
    (face,) = found(faces, picture("astronaut.jpg"))
    assert face.label == "face"
    assert face.bbox == pytest.approx(FACE, abs=8)
    assert 0.7 < face.confidence <= 1.0


def test_boxes_are_in_pixels_of_the_given_image(faces, picture):
    """On a piece of the picture the box moves by what was cut away."""
    (face,) = found(faces, picture("astronaut.jpg")[20:400, 50:450])
    assert face.bbox == pytest.approx((127, 46, 222, 141), abs=10)


def test_channels_are_taken_as_rgb(faces, picture):
    """The grey picture that is searched weighs red, green and blue in this order."""
    image = picture("astronaut.jpg")
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    assert found(faces, image)[0].confidence != found(faces, swapped)[0].confidence


def test_confidence_filters(faces, picture):
    """A threshold above the face's confidence leaves an empty list."""
    image = picture("astronaut.jpg")
    confidence = found(faces, image)[0].confidence
    assert len(found(faces, image, confidence=confidence)) == 1
    assert found(faces, image, confidence=min(confidence + 0.001, 1.0)) == []


def test_pictures_without_faces_give_none(faces, picture):
    """The receipt and the codes hold no face."""
    assert found(faces, picture("receipt.jpg")) == []
    assert found(faces, picture("codes.jpg")) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (64, 12_000)])
def test_any_size_is_taken(faces, size):
    """One pixel and a very wide picture are answered with an empty list."""
    assert found(faces, np.full((*size, 3), 90, np.uint8)) == []


def test_a_batch_keeps_its_order(faces, picture):
    """Each image of a batch gets its own result and its own params."""
    image, empty = picture("astronaut.jpg"), np.zeros((50, 50, 3), np.uint8)
    params = [FaceParams(), FaceParams(), FaceParams(confidence=1.0)]
    results = faces.predict([empty, image, image], params)
    assert [len(result.detections) for result in results] == [0, 1, 0]


def test_settings_reach_the_detector(load, picture):
    """With a least size above the face's, it is not found."""
    assert found(load("opencv-faces", min_size=200), picture("astronaut.jpg")) == []


def test_a_large_picture_can_be_searched_for_faces_that_are_not_tiny(load, picture):
    """A face keeps its box whatever is left out; a share leaves out what is smaller."""
    image = picture("astronaut.jpg")
    large = np.full((1500, 9000, 3), 90, np.uint8)
    large[: image.shape[0], : image.shape[1]] = image
    every, few = load("opencv-faces"), load("opencv-faces", min_share=0.02)
    (face,) = found(every, large)
    assert face.bbox == pytest.approx(FACE, abs=8)
    assert found(few, large) == []
    half = np.ascontiguousarray(large[:, :3000])
    assert found(few, half) == found(every, half) != []


def test_confidence_grows_with_the_weight():
    """The scale is monotone, stays within 0 and 1, and puts the undecided vote at one half."""
    scale = [confidence_of(weight) for weight in (-50.0, -3.0, 0.0, 0.15, 6.3, 50.0)]
    assert scale == sorted(scale)
    assert scale[2] == 0.5
    assert 0.0 <= scale[0] < scale[-1] <= 1.0

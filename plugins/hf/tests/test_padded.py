"""Images with a border that their processor adds: what is found lies where it is in the image."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mataserver import BadRequest, MataError
from mataserver_hf import detect, segment
from mataserver_hf.boxes import corners

PADDED = {
    "do_pad": True,
    "size": {"max_height": 96, "max_width": 96},
    "pad_size": {"height": 96, "width": 128},
}
PROCESSORS = ("ConditionalDetr", "DeformableDetr", "Detr", "RTDetr", "Yolos")
BOX = [30, 60, 90, 20]  # left, top, width and height


class Trained:
    """A network that answers what its training asks for."""

    labels = ("cat", "dog")

    def __init__(self, processor, image):
        import torch

        marked = {"category_id": 1, "bbox": BOX, "area": BOX[2] * BOX[3], "iscrowd": 0}
        prepared = processor(
            images=[image],
            annotations=[{"image_id": 1, "annotations": [marked]}],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        self._boxes = prepared["labels"][0]["boxes"][None]
        self._logits = torch.tensor([[[-9.0, 9.0, -9.0]]])

    def run(self, _tensors):
        return SimpleNamespace(logits=self._logits, pred_boxes=self._boxes)

    def finite(self, tensor):
        return tensor


def changed(path, **settings):
    """Write settings into the image processor's file of a checkpoint."""
    for file in path.glob("*processor_config.json"):
        known = json.loads(file.read_text())
        known.get("image_processor", known).update(settings)
        file.write_text(json.dumps(known))
    return path


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 64, "longest_edge": 80}},
        PADDED,
        PADDED | {"do_pad": False},
        PADDED | {"do_resize": False, "pad_size": {"height": 320, "width": 200}},
        {"do_pad": True, "size": {"height": 64, "width": 96}, "pad_size": PADDED["pad_size"]},
    ],
    ids=str,
)
def test_boxes_are_those_of_training(kind, settings, picture):
    """What a network has learnt of a box, from the same processor, is answered as that box."""
    import transformers

    from mataserver_hf.preprocessor import Preprocessor

    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    image = picture(90, 150)
    detector = detect.Detector(Trained(processor, image), Preprocessor(processor))
    [result] = detector.predict([image], [detect.DetectParams()])
    [found] = result.detections
    assert found.label == "dog"
    left, top, width, height = BOX
    assert found.bbox == pytest.approx((left, top, left + width, top + height), abs=1e-3)


@pytest.mark.parametrize("name", ["detr", "yolos", "rt_detr"])
def test_boxes_in_the_border_are_left_out(name, checkpoint, load_from, picture, tmp_path):
    """A checkpoint's boxes are fractions of what was filled up; none lies beside the image."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    path = changed(shutil.copytree(checkpoint(name), tmp_path / name), **PADDED)
    image = picture(60, 96)
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    network = AutoModelForObjectDetection.from_pretrained(path, dtype=torch.float32).eval()
    tensors = processor(images=[image], input_data_format="channels_last", return_tensors="pt")
    with torch.inference_mode():
        output = network(**tensors)
    [expected] = processor.post_process_object_detection(output, -1.0, [(96, 128)])
    inside = [
        (score, (max(x1, 0), max(y1, 0), min(x2, 96), min(y2, 60)))
        for score, (x1, y1, x2, y2) in zip(
            expected["scores"].tolist(), expected["boxes"].tolist(), strict=True
        )
        if x2 > 0 and y2 > 0 and x1 < 96 and y1 < 60
    ]
    _, model = load_from(name, path)
    [result] = model.predict([image], [detect.DetectParams(confidence=0.0)])
    assert 0 < len(result.detections) == len(inside)
    for found, (score, box) in zip(
        result.detections, sorted(inside, key=lambda row: -row[0]), strict=True
    ):
        assert found.confidence == pytest.approx(score, abs=1e-5)
        assert found.bbox == pytest.approx(box, abs=1e-2)


@pytest.mark.parametrize("name", ["detr", "grounding_dino"])
def test_boxes_of_an_unknown_training_are_refused(name, checkpoint, load_from, tmp_path):
    """Where training was not told of the padding, nothing says what boxes are fractions of."""
    path = shutil.copytree(checkpoint(name), tmp_path / name)
    changed(path, **PADDED, do_convert_annotations=False)
    with pytest.raises(MataError, match=rf"of tiny/{name} pads images \(pad_size\) and does not"):
        load_from(name, path)
    changed(path, pad_size=None)
    load_from(name, path)


def test_an_image_that_is_larger_than_its_border(checkpoint, load_from, picture, tmp_path):
    """It is told as one that is too large, not as one that is too small."""
    path = shutil.copytree(checkpoint("yolos"), tmp_path / "yolos")
    changed(path, do_resize=False, do_pad=True, pad_size={"height": 480, "width": 480})
    _, model = load_from("yolos", path)
    with pytest.raises(BadRequest, match="of 500x90 pixels is larger than this model takes"):
        model.predict([picture(90, 500)], [detect.DetectParams()])


@pytest.mark.parametrize("pads", [True, False])
def test_owlv2_sees_a_square_only_where_it_is_made(pads, checkpoint, load_from, picture, tmp_path):
    """Without ``do_pad`` an image is stretched, and boxes are fractions of its own sides."""
    import torch

    path = shutil.copytree(checkpoint("owlv2"), tmp_path / "owlv2")
    backend, model = load_from("owlv2", changed(path, do_pad=pads))
    output = SimpleNamespace(
        logits=torch.tensor([[[9.0]]]), pred_boxes=torch.tensor([[[0.5, 0.25, 0.4, 0.2]]])
    )
    model._network.forward = lambda **_: output
    params = backend.params(prompts=("cat",))
    [found] = model.predict([picture(90, 150)], [params])[0].detections
    height = 150 if pads else 90
    expected = corners(torch.tensor([[0.5, 0.25, 0.4, 0.2]]), (height, 150))[0].tolist()
    assert found.bbox == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["mask2former", "maskformer"])
def test_masks_are_those_of_the_image_alone(name, checkpoint, load_from, picture, tmp_path):
    """The border is cut off before masks are stretched to the image."""
    import torch
    from transformers import AutoImageProcessor

    path = shutil.copytree(checkpoint(name), tmp_path / name)
    changed(path, **PADDED | {"size": {"height": 64, "width": 64}})
    image = picture(90, 150)
    backend, model = load_from(name, path)
    [result] = model.predict([image], [backend.params(mode="semantic", confidence=0.0)])
    found = np.full((90, 150), -1)
    for each in result.segments:
        found[each.mask] = model._labels.index(each.label)
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    tensors = processor(images=[image], input_data_format="channels_last", return_tensors="pt")
    with torch.inference_mode():
        output = model._network._module(**tensors)
    # 64 by 64 of 96 by 128 pixels are the image.
    [whole] = processor.post_process_semantic_segmentation(output, target_sizes=[(135, 300)])
    assert len(whole.unique()) > 1
    # At the very end theirs are mixed with what lies in the border. Mask2Former's masks are
    # resized to a square first: theirs with the border.
    assert (found[:85, :140] != whole[:85, :140].numpy()).mean() < 0.002
    assert (found >= 0).all()


def test_eomt_pads_an_image_that_it_does_not_resize(checkpoint, load_from, picture, tmp_path):
    """Its masks are those of the image's own pixels, and not of as large a part of the square."""
    path = shutil.copytree(checkpoint("eomt"), tmp_path / "eomt")
    _, model = load_from("eomt", changed(path, do_resize=False))
    image, square = picture(32, 48), np.zeros((64, 64, 3), np.uint8)
    square[:32, :48] = image
    wanted = segment.SegmentParams(mode="instance", confidence=0.0)
    own, whole = model.predict([image, square], [wanted, wanted])
    expected = {each.mask[:32, :48].tobytes() for each in whole.segments}
    assert {each.mask.tobytes() for each in own.segments} == expected - {bytes(32 * 48)}


def test_eomt_has_no_squares_of_a_limited_side(checkpoint, load_from, tmp_path):
    """They would be larger than the image, whose maps they are laid on."""
    path = shutil.copytree(checkpoint("eomt"), tmp_path / "eomt")
    with pytest.raises(MataError, match=r"splits images .* and limits their longer side"):
        load_from("eomt", changed(path, do_split_image=True))

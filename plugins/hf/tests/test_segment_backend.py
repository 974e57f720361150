"""What the backend of segmentation serves, in which mode, with which parameters."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest

from mataserver import MataError, ModelFiles, ModelSpec
from mataserver_hf import segment


@pytest.mark.parametrize(
    ("name", "classes", "mode"),
    [
        ("facebook/mask2former-swin-large-ade-panoptic", 150, "panoptic"),
        ("facebook/mask2former-swin-tiny-coco-instance", 80, "instance"),
        ("tue-mps/ade20k_semantic_eomt_large_512", 150, "semantic"),
        ("facebook/maskformer-swin-base-ade", 150, "semantic"),
        ("facebook/maskformer-swin-base-coco", 133, "panoptic"),
        ("mine", 80, "instance"),
        ("mine", 8, "instance"),
        ("mine", 19, "semantic"),
        ("mine", 5, "panoptic"),
        ("panopticon", 150, "semantic"),
    ],
)
def test_natural_mode(name, classes, mode):
    """A word of the name says what a checkpoint was made for, else the number of its classes."""
    from mataserver_hf.segment_checkpoint import default_mode

    assert default_mode(name, classes) == mode


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}, False),
        ({"do_center_crop": True, "crop_size": {"height": 48, "width": 64}}, True),
        ({"do_center_crop": True, "crop_size": 64, "size": {"shortest_edge": 64}}, True),
        ({"do_center_crop": True, "crop_size": 64, "do_resize": False}, True),
        ({"do_center_crop": False, "crop_size": 48}, False),
    ],
)
def test_a_processor_that_cuts_images_off_is_refused(settings, cuts, checkpoint, context, tmp_path):
    """Told of the whole picture, what the network says of its middle would be wrong everywhere."""
    path = tmp_path / "cut"
    shutil.copytree(checkpoint("beit_segmenter"), path)
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    spec = ModelSpec("tiny/cut", "segment", "hf", path)
    if not cuts:
        assert segment.load(spec, context())
        return
    with pytest.raises(MataError, match="cuts off parts of images"):
        segment.load(spec, context())


def test_defaults():
    """Without parameters segments below 0.5 are left out, in the checkpoint's own mode."""
    params = segment.SegmentParams()
    assert (params.confidence, params.mode) == (0.5, "auto")


def test_serves_networks_with_a_mask_head():
    """DETR, SegFormer and their like need the head that the task asks for."""

    def served(family, *architectures):
        config = {"model_type": family, "architectures": list(architectures)}
        return segment.BACKEND.serves(ModelFiles("a/b", "hf", config=config), "segment")

    assert served("mask2former")
    assert served("detr", "DetrForSegmentation")
    assert not served("detr", "DetrForObjectDetection")
    assert served("segformer", "SegformerForSemanticSegmentation")
    assert not served("segformer", "SegformerForImageClassification")
    assert not served("vit", "ViTForSemanticSegmentation")


def test_params_cross_the_wire():
    """Parameters survive the way to a worker; a misspelt mode is refused."""
    made = msgspec.convert({"mode": "panoptic", "confidence": 0.25}, segment.SegmentParams)
    sent = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.decode(sent, type=segment.SegmentParams) == made
    with pytest.raises(msgspec.ValidationError, match="panoptik"):
        msgspec.convert({"mode": "panoptik"}, segment.SegmentParams)


def test_families_are_known_to_transformers():
    """Every family is one that transformers' own tables have for the task."""
    from transformers.models.auto import modeling_auto

    known = modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES
    assert (segment.QUERY_FAMILIES | {"detr"}).issubset(known)
    known = modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    assert segment.CLASS_FAMILIES.issubset(known)

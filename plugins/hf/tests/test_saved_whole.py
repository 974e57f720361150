"""Checkpoints saved with their whole processor, as today's transformers writes them.

The settings of the image processor are then a part of ``processor_config.json``.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import transformers

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = {
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "siglip2": "Siglip2Processor",
    "owlvit": "OwlViTProcessor",
    "owlv2": "Owlv2Processor",
    "grounding_dino": "GroundingDinoProcessor",
    "mm_grounding_dino": "GroundingDinoProcessor",
    "clipseg": "CLIPSegProcessor",
    "oneformer": "OneFormerProcessor",
    "oneformer_unlisted": "OneFormerProcessor",
}
"""Families whose processor has two parts, which transformers saves in one file.

The checkpoints of text recognisers and language models that other tests serve are saved so already.
"""

ALONE = (
    *("detr", "rt_detr", "d_fine", "yolos", "vit", "resnet", "clip_classifier"),
    *("depth_anything", "dpt", "glpn", "zoedepth", "segformer", "upernet", "beit_segmenter"),
    *("mask2former", "maskformer", "detr_panoptic", "eomt", "eomt_semantic", "eomt_dinov3"),
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"),
)
"""Families with an image processor alone: its part can stand in that file as well."""


def save_whole(path: Path, name: str) -> None:
    """Save the processor of a checkpoint anew, its parts together, and take away the old file."""
    file = path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    if name in WHOLE:
        _processor(path, name, settings).save_pretrained(path)
    else:
        (path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    file.unlink()
    assert "image_processor" in json.loads((path / "processor_config.json").read_text())


def _processor(path: Path, name: str, settings: dict[str, Any]) -> Any:
    # OneFormer's list of classes is for training: opening the processor would look for it.
    kept = {"class_info_file": None} if name.startswith("oneformer") else {}
    images: Any = transformers.AutoImageProcessor
    pixels = images.from_pretrained(path, backend="pil", **kept)
    for key in kept:
        setattr(pixels, key, settings[key])
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return getattr(transformers, WHOLE[name])(pixels, tokenizer)


def _bytes(result: Any) -> bytes:
    return msgspec.msgpack.encode(result, enc_hook=lambda array: (array.shape, array.tobytes()))


@pytest.mark.parametrize("name", [*WHOLE, *ALONE])
def test_a_checkpoint_saved_whole_is_served_alike(
    name, checkpoint, model, load_from, picture, tmp_path
):
    """It loads, and answers what the same checkpoint answers in the older layout."""
    path = tmp_path / "whole"
    shutil.copytree(checkpoint(name), path)
    save_whole(path, name)
    backend, whole = load_from(name, path)
    prompts = {"prompts": ["red", "blue"]} if "prompts" in backend.params.__struct_fields__ else {}
    params = msgspec.convert(prompts, backend.params)
    [expected] = model(name).predict([picture(70, 90)], [params])
    [result] = whole.predict([picture(70, 90)], [params])
    assert _bytes(result) == _bytes(expected)

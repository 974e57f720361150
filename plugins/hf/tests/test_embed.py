"""Embeddings, against transformers itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mataserver import MataError, ModelFiles, ModelSpec, Params
from mataserver_hf import embed

IMAGE_TEXT = ("clip", "siglip", "siglip2")
DINO2 = ("dinov2", "dinov2_with_registers")
DINO3 = ("dinov3_vit", "dinov3_convnext")
EVERYONE = (*IMAGE_TEXT, *DINO2, *DINO3)


@pytest.fixture(scope="module")
def encoder(checkpoint, session_context):
    """``encoder(name)`` is the loaded image encoder of a checkpoint."""
    return lambda name: embed.load(
        ModelSpec(f"tiny/{name}", "embed", "hf", checkpoint(name)), session_context
    )


def vector(model, image):
    [result] = model.predict([image], [Params()])
    return result.embedding


def prepared(path, image, name):
    """The tensors of one image; those of DINOv3 by hand: its processor needs torchvision."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    if name not in DINO3:
        return AutoImageProcessor.from_pretrained(path, local_files_only=True)(
            images=Image.fromarray(image), return_tensors="pt"
        )
    pixels = torch.tensor(image / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for channel in range(3):
        small[:, channel] = (small[:, channel] - mean[channel]) / deviation[channel]
    return {"pixel_values": small}


def directly(path, image, name):
    """The vector that transformers' whole model gives, scaled to length one."""
    import torch
    from transformers import AutoModel

    network = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    tensors = prepared(path, image, name)
    with torch.inference_mode():
        if name in IMAGE_TEXT:
            raw = network.get_image_features(**tensors).pooler_output[0]
        elif name == "dinov3_convnext":
            raw = network(**tensors).pooler_output[0]
        else:
            raw = network(**tensors).last_hidden_state[0, 0]
    return (raw / raw.pow(2).sum().sqrt()).numpy()


@pytest.mark.parametrize("name", EVERYONE)
def test_equals_transformers(name, encoder, checkpoint, picture):
    """The vector of a wide image is that of a direct call, float32 and of length one."""
    image = picture(90, 150)
    found = vector(encoder(name), image)
    assert found.dtype == np.float32
    assert found.ndim == 1
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(found, directly(checkpoint(name), image, name), atol=1e-5)


@pytest.mark.parametrize("name", EVERYONE)
def test_batch_equals_single(name, encoder, picture):
    """A batch of mixed sizes gives what its images give one by one, each its own vector."""
    model = encoder(name)
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    batch = [each.embedding for each in model.predict(images, [Params()] * 3)]
    for image, found in zip(images, batch, strict=True):
        np.testing.assert_allclose(found, vector(model, image), atol=1e-5)
    assert np.abs(batch[0] - batch[2]).max() > 1e-4


def test_text_encoder_stays_on_disk(encoder):
    """Of an image-text model only the half that sees is in memory."""
    for name in IMAGE_TEXT:
        weights = dict(encoder(name)._network._module.named_parameters())
        assert weights
        assert not [weight for weight in weights if "text" in weight]


def test_zeros_are_refused(checkpoint, context, picture):
    """A vector without a direction is an error, never a division by zero."""
    import torch

    spec = ModelSpec("tiny/clip", "embed", "hf", checkpoint("clip"))
    broken = embed.load(spec, context())
    with torch.no_grad():
        broken._network._module.visual_projection.weight.zero_()
    with pytest.raises(MataError, match="a vector of zeros, which has no direction"):
        vector(broken, picture(40, 40))


def test_overflow_is_an_error(checkpoint, context, picture):
    """A network that computes NaN is an error."""
    import torch

    spec = ModelSpec("tiny/dinov2", "embed", "hf", checkpoint("dinov2"))
    broken = embed.load(spec, context())
    with torch.no_grad():
        broken._network._module.layernorm.bias.fill_(float("nan"))
    with pytest.raises(MataError, match=r"no numbers in torch\.float32$"):
        vector(broken, picture(40, 40))


@pytest.mark.parametrize(
    "change",
    [
        {"do_center_crop": True},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"size": {}},
    ],
)
def test_unknown_preparation_of_dinov3(change, checkpoint, context, tmp_path):
    """Settings of DINOv3's image processor that are not known here are refused, not ignored."""
    path = tmp_path / "dinov3"
    shutil.copytree(checkpoint("dinov3_vit"), path)
    settings = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(MataError) as caught:
        embed.load(ModelSpec("tiny/dinov3", "embed", "hf", path), context())
    assert "tiny/dinov3" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


def test_serves_image_encoders():
    """Image-text models with a trained head have lost the output that this task needs."""

    def served(family, *architectures):
        config = {"model_type": family, "architectures": list(architectures)}
        return embed.BACKEND.serves(ModelFiles("a/b", "hf", config=config), "embed")

    assert all(served(family) for family in embed.FAMILIES)
    assert served("dinov2", "Dinov2ForImageClassification")
    assert not served("clip", "CLIPForImageClassification")
    assert not served("vit")

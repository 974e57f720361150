"""Depth estimation, against transformers itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from mataserver import BadRequest, MataError, ModelSpec
from mataserver_hf import depth

FAMILIES = ("depth_anything", "dpt", "glpn", "zoedepth")
RAW = depth.DepthParams(normalize=False)


def predicted(path, image):
    """The map that transformers' network computes, before any resizing: ``[h, w]``."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    network = AutoModelForDepthEstimation.from_pretrained(
        path, local_files_only=True, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        output = network(**processor(images=Image.fromarray(image), return_tensors="pt"))
    return processor, output


def relative(one, other):
    """The largest difference, in parts of the expected map's range."""
    return np.abs(one - other).max() / (other.max() - other.min())


@pytest.mark.parametrize("name", ["depth_anything", "dpt", "glpn"])
def test_equals_transformers(name, model, checkpoint, picture):
    """The map of a wide image has its size and is that of a direct call."""
    image = picture(90, 150)
    [result] = model(name).predict([image], [RAW])
    processor, output = predicted(checkpoint(name), image)
    [expected] = processor.post_process_depth_estimation(output, target_sizes=[(90, 150)])
    assert result.depth_map.shape == (90, 150)
    assert result.depth_map.dtype == np.float32
    assert relative(result.depth_map, expected["predicted_depth"].numpy()) < 1e-5


@pytest.mark.parametrize(
    ("size", "seen"),
    [((1024, 1216), (992, 1184)), ((40, 60_000), (32, 38_400)), ((60_000, 40), (38_400, 32))],
)
def test_glpn_reduces_large_images(size, seen, model, checkpoint, picture, monkeypatch):
    """A larger image is reduced once, as Pillow does, and its map has the image's size."""
    from PIL import Image

    loaded, image = model("glpn"), picture(*size)
    shapes = []
    run = loaded._network.run
    monkeypatch.setattr(
        loaded._network,
        "run",
        lambda tensors: shapes.append(tuple(tensors["pixel_values"].shape[-2:])) or run(tensors),
    )
    [result] = loaded.predict([image], [replace(RAW, target_size=(64, 96))])
    assert shapes == [seen]
    smaller = np.asarray(Image.fromarray(image).resize(seen[::-1], Image.Resampling.BILINEAR))
    [expected] = loaded.predict([smaller], [replace(RAW, target_size=(64, 96))])
    assert relative(result.depth_map, expected.depth_map) < 1e-5


def test_glpn_at_its_bound_is_as_it_was():
    """Four times 480 by 640 pixels are seen as they are, and a side below 32 stays refused."""
    assert depth.reduced_size(960, 1280, 32) == (960, 1280)
    assert depth.reduced_size(20, 1_000_000, 32)[0] == 0
    for height, width in ((3024, 4032), (4032, 3024), (8000, 6000), (961, 1281), (33, 1_500_000)):
        rows, columns = depth.reduced_size(height, width, 32)
        assert 0 < rows * columns <= depth.GLPN_PIXELS
        assert rows % 32 == columns % 32 == 0


def test_zoedepth_loses_its_border(model, checkpoint, picture):
    """ZoeDepth's map is resized to the mirrored image, and the mirrored border cut off."""
    import torch

    image = picture(90, 150)
    [result] = model("zoedepth").predict([image], [RAW])
    _, output = predicted(checkpoint("zoedepth"), image)
    # floor(3 * sqrt(90 / 2)) = 20 rows and floor(3 * sqrt(150 / 2)) = 25 columns on each side
    full = torch.nn.functional.interpolate(
        output.predicted_depth[None], size=(130, 200), mode="bicubic", align_corners=False
    )
    expected = full[0, 0, 20:110, 25:175].numpy()
    assert result.depth_map.shape == (90, 150)
    assert relative(result.depth_map, expected) < 1e-5


@pytest.mark.parametrize("resized", [False, True])
def test_dpt_loses_what_was_put_around(resized, checkpoint, context, picture, tmp_path):
    """The border that makes sides multiples of a number is cut off: the map is the image's."""
    import json

    import torch

    path = tmp_path / "dpt"
    shutil.copytree(checkpoint("dpt"), path)
    file = path / "preprocessor_config.json"
    said = json.loads(file.read_text())
    said |= {"do_pad": True, "size_divisor": 64, "do_resize": resized}
    said |= {"size": {"height": 60, "width": 60}}
    file.write_text(json.dumps(said))
    model = depth.load(ModelSpec("dpt", "depth", "local", path), context())
    image = picture(50, 40)
    [result] = model.predict([image], [RAW])
    processor, output = predicted(path, image)
    assert processor.do_pad
    # Of 64 rows and columns the middle 60 are the image, or 50 and 40 where it is not resized.
    full = torch.nn.functional.interpolate(
        output.predicted_depth[None], size=(64, 64), mode="bicubic", align_corners=False
    )
    expected = full[:, :, 2:62, 2:62] if resized else full[:, :, 7:57, 12:52]
    expected = torch.nn.functional.interpolate(
        expected, size=(50, 40), mode="bicubic", align_corners=False
    )
    assert result.depth_map.shape == (50, 40)
    assert relative(result.depth_map, expected[0, 0].numpy()) < 1e-5


def processed(path, source, **changes):
    """Copy a checkpoint, and change what its image processor does."""
    import json

    shutil.copytree(source, path)
    file = path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("size", "kept"), [((64, 96), False), ((32, 128), False), ((64, 64), True), ((40, 70), False)]
)
def test_dpt_takes_images_that_are_no_squares(size, kept, checkpoint, context, picture, tmp_path):
    """Patches lie as in the image, also those of 32x128 pixels, as many as of a square of 64.

    transformers reshapes them to a square, so its parts are called one by one.
    """
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    path = processed(
        tmp_path / "dpt",
        checkpoint("dpt"),
        size={"height": size[0], "width": size[1]},
        keep_aspect_ratio=kept,
        ensure_multiple_of=16 if kept else 1,
    )
    images = [picture(90, 150, 1), picture(90, 150, 2)]
    results = depth.load(ModelSpec("dpt", "depth", "local", path), context()).predict(
        images, [RAW] * 2
    )
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    network = AutoModelForDepthEstimation.from_pretrained(path, dtype=torch.float32).eval()
    for image, result in zip(images, results, strict=True):
        pixels = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        rows, columns = (side // 16 for side in pixels.shape[-2:])
        assert rows != columns
        with torch.inference_mode():
            states = network.dpt(pixels, output_hidden_states=True).hidden_states[1:]
            found = network.head(network.neck(list(states), rows, columns))
        expected = torch.nn.functional.interpolate(
            found[None], size=(90, 150), mode="bicubic", align_corners=False
        )
        assert relative(result.depth_map, expected[0, 0].numpy()) < 1e-5


def test_a_hybrid_dpt_of_another_size_is_refused(checkpoint, context, picture, tmp_path):
    """DPT-Hybrid lays its patches out as a square: a processor that makes none is told at load."""
    from transformers import BitConfig, DPTConfig, DPTForDepthEstimation

    source = tmp_path / "hybrid"
    backbone = BitConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16],
        depths=[1, 1, 1],
        num_groups=4,
        layer_type="bottleneck",
        global_padding="same",
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    config = DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        neck_ignore_stages=[0, 1],
        backbone_featmap_shape=[1, 16, 4, 4],
        fusion_hidden_size=8,
        use_auxiliary_head=False,
    )
    DPTForDepthEstimation(config).save_pretrained(source)
    shutil.copy(checkpoint("dpt") / "preprocessor_config.json", source)
    image = picture(90, 150)
    [result] = depth.load(ModelSpec("d", "depth", "local", source), context()).predict(
        [image], [RAW]
    )
    processor, output = predicted(source, image)
    [expected] = processor.post_process_depth_estimation(output, target_sizes=[(90, 150)])
    assert relative(result.depth_map, expected["predicted_depth"].numpy()) < 1e-5
    for changes in (
        {"size": {"height": 64, "width": 96}},
        {"keep_aspect_ratio": True, "ensure_multiple_of": 16},
    ):
        path = processed(tmp_path / str(len(str(changes))), source, **changes)
        with pytest.raises(MataError, match="takes images of 64x64 pixels alone"):
            depth.load(ModelSpec("d", "depth", "local", path), context())


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_equals_single(name, model, picture):
    """A batch of mixed sizes gives what its images give one by one."""
    images = [picture(90, 150, 1), picture(120, 70, 2), picture(90, 150, 3)]
    batch = model(name).predict(images, [RAW] * 3)
    for image, result in zip(images, batch, strict=True):
        [single] = model(name).predict([image], [RAW])
        assert relative(result.depth_map, single.depth_map) < 1e-4
    assert relative(batch[0].depth_map, batch[2].depth_map) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_normalized_by_default(name, model, picture):
    """By default the map is stretched to 0..1, in the same order as the raw one."""
    image = picture(90, 150)
    [raw] = model(name).predict([image], [RAW])
    [result] = model(name).predict([image], [depth.DepthParams()])
    low, high = raw.depth_map.min(), raw.depth_map.max()
    assert (result.depth_map.min(), result.depth_map.max()) == (0.0, 1.0)
    assert result.depth_map.dtype == np.float32
    np.testing.assert_allclose(result.depth_map, (raw.depth_map - low) / (high - low), atol=1e-6)


def test_a_picture_that_is_too_narrow_for_the_network(model, picture):
    """Fewer pixels than a patch has are left: that is the picture's fault, and told so."""
    with pytest.raises(BadRequest, match="resized to 4x64 pixels is too small or too narrow"):
        model("zoedepth").predict([picture(500, 20)], [RAW])
    [result] = model("zoedepth").predict([picture(20, 500)], [RAW])
    assert result.depth_map.shape == (20, 500)


@pytest.mark.parametrize(
    ("name", "kept", "refused"),
    [
        # 518 by 518 pixels are stated.
        ("DPTImageProcessorPil", (518, 8200), (518, 8300)),
        ("DPTImageProcessorPil", (8200, 518), (50000, 518)),
        ("DPTImageProcessorPil", (200, 9000), (270, 9000)),  # which is scaled by 518 / 270
        # Its border belongs to what is resized: 518 rows become 614.
        ("ZoeDepthImageProcessorPil", (518, 9400), (518, 9600)),
    ],
)
def test_a_picture_whose_shape_is_kept_is_not_of_any_length(name, kept, refused, picture):
    """Nothing else limits the longer side: 518 by 50000 pixels were 130,000 tokens of attention."""
    import transformers

    from mataserver_hf.preprocessor import Preprocessor

    size = {"height": 518, "width": 518}
    processor = getattr(transformers, name)(
        size=size, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    preprocessor = Preprocessor(processor, 50_000_000)
    preprocessor.check_enlarged(picture(*kept))
    rows, columns = preprocessor.unpadded_size(kept) if name[0] == "D" else (518, 518)
    assert rows * columns <= 16.1 * 518 * 518
    height, width = refused
    with pytest.raises(BadRequest, match=f"{width}x{height} pixels is too small or too narrow"):
        list(preprocessor.groups([picture(*refused)]))


def test_constant_map_becomes_zeros():
    """A map without any difference in depth is all zeros, not a division by zero."""
    flat = depth._normalize(np.full((4, 6), 7.5, np.float32))
    assert flat.dtype == np.float32
    assert not flat.any()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [(30, 50), (1, 40), (40, 1), (1, 1)])
def test_target_size(name, size, model, picture):
    """The map has the height and width that were asked for, even of one row or column."""
    params = depth.DepthParams(normalize=False, target_size=size)
    [result] = model(name).predict([picture(90, 150)], [params])
    assert result.depth_map.shape == size
    assert np.isfinite(result.depth_map).all()


def test_target_size_equals_transformers(model, checkpoint, picture):
    """A map of another size is interpolated from the network's own output."""
    image = picture(90, 150)
    params = depth.DepthParams(normalize=False, target_size=(33, 44))
    [result] = model("dpt").predict([image], [params])
    processor, output = predicted(checkpoint("dpt"), image)
    [expected] = processor.post_process_depth_estimation(output, target_sizes=[(33, 44)])
    assert relative(result.depth_map, expected["predicted_depth"].numpy()) < 1e-5


def without(path, copy, part):
    """Copy a checkpoint and drop the weights whose names hold ``part``, four of them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(path, copy)
    weights = load_file(copy / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if part not in name}
    assert len(kept) == len(weights) - 4
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    return ModelSpec("tiny/dpt", "depth", "hf", copy)


def test_weights_that_nothing_reads_may_be_missing(model, checkpoint, context, picture, tmp_path):
    """Published DPT checkpoints lack weights of the first fusion layer that are never read."""
    spec = without(checkpoint("dpt"), tmp_path / "dpt", "fusion_stage.layers.0.residual_layer1")
    image = picture(90, 150)
    [result] = depth.load(spec, context()).predict([image], [RAW])
    [expected] = model("dpt").predict([image], [RAW])
    assert relative(result.depth_map, expected.depth_map) < 1e-6


def test_weights_that_are_read_may_not_be_missing(checkpoint, context, tmp_path):
    """The same weights of the next layer are read, so a checkpoint without them is refused."""
    spec = without(checkpoint("dpt"), tmp_path / "dpt", "fusion_stage.layers.1.residual_layer1")
    with pytest.raises(MataError, match="lacks 4 of the weights"):
        depth.load(spec, context())

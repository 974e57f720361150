"""Images of a size that a network does not take: told when it is loaded, or of the image."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mataserver import BadRequest, MataError, ModelSpec
from mataserver_hf import classify, embed, pose
from mataserver_hf.options import Settings
from mataserver_hf.preprocessor import stated_sizes


@pytest.fixture
def with_processor(checkpoint, tmp_path):
    """``with_processor(name, **settings)`` is a checkpoint whose image processor has others."""

    def copy(name, **settings):
        path = shutil.copytree(checkpoint(name), tmp_path / name, dirs_exist_ok=True)
        for file in path.glob("*processor_config.json"):
            known = json.loads(file.read_text())
            known.get("image_processor", known).update(settings)
            file.write_text(json.dumps(known))
        return path

    return copy


@pytest.fixture
def opened(load_from, session_context):
    """``opened(name, path)`` is the model of a directory."""

    def load(name, path):
        if not name.endswith("_classifier"):
            return load_from(name, path)[1]
        return classify.load(ModelSpec(f"tiny/{name}", "classify", "hf", path), session_context)

    return load


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("vit", (48, 48)),
        ("clip", (48, 48)),
        ("siglip", (96, 64)),
        ("levit_classifier", (96, 96)),
        ("hiera_classifier", (48, 48)),
        ("owlvit", (96, 96)),
        ("clipseg", (64, 96)),
        ("clipseg", (32, 128)),  # 2 by 8 pieces, which its decoder would lay out as 4 by 4
        ("trocr", (16, 48)),
        ("rt_detr", (48, 48)),
    ],
)
def test_a_processor_that_makes_another_size_is_refused(name, sides, with_processor, opened):
    """Each request would fail: the load does, and says what the network is given."""
    size = {"height": sides[0], "width": sides[1]}
    with pytest.raises(MataError) as told:
        opened(name, with_processor(name, size=size, crop_size=size))
    assert told.value.status == 500
    taken = "squares alone" if name == "clipseg" else "other sizes"
    assert told.value.detail == (
        f"the network of tiny/{name} does not take what its image processor makes of an image: "
        f"an image that is resized to {sides[1]}x{sides[0]} pixels does not fit this model, "
        f"whose network takes {taken}"
    )


@pytest.mark.parametrize("name", ["swin_classifier", "dinov2_classifier", "beit_classifier"])
def test_a_network_of_any_size_is_not_refused(name, with_processor, opened, picture):
    """It may have been trained with another size than it is given."""
    size = {"height": 96, "width": 96}
    model = opened(name, with_processor(name, size=size, crop_size=size))
    [result] = model.predict([picture(90, 150)], [classify.ClassifyParams()])
    assert result.classifications


@pytest.mark.parametrize("size", [{"height": 48, "width": 48}, {"shortest_edge": 48}, [48, 48]])
def test_a_network_may_state_its_size_in_other_forms(size, checkpoint, tmp_path, opened, picture):
    """A list and a mapping are read, too: the checkpoint is loaded."""
    path = shutil.copytree(checkpoint("pvt_v2_classifier"), tmp_path / "pvt")
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_size": size}))
    model = opened("pvt_v2_classifier", path)
    [result] = model.predict([picture(90, 150)], [classify.ClassifyParams()])
    assert result.classifications


@pytest.mark.parametrize(
    ("size", "stated"),
    [
        (224, [(224, 224)]),
        ([224, 192], [(224, 192)]),
        ((224, 192), [(224, 192)]),
        ({"height": 224, "width": 192}, [(224, 192)]),
        ({"shortest_edge": 224}, []),
        ((3, 224, 224), []),
        ([224], []),
        ([224.0, 224.0], []),
        (None, []),
    ],
)
def test_what_a_configuration_says_of_sizes(size, stated):
    """Two whole numbers are a size, by order or by name; anything else states none."""
    assert list(stated_sizes(SimpleNamespace(image_size=size))) == stated


_UNMATCHED = "Image features and image tokens do not match"


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("llava", {"crop_size": {"height": 48, "width": 48}}, "resized to 48x48 pixels"),
        ("llava_next", {"crop_size": {"height": 48, "width": 48}}, "48"),
        ("paligemma", {"size": {"height": 64, "width": 64}}, "resized to 64x64 pixels"),
        ("florence2", {"size": {"height": 48, "width": 96}}, _UNMATCHED),
        ("smolvlm", {"max_image_size": {"longest_edge": 48}}, _UNMATCHED),
        ("qwen2_vl", {"patch_size": 7}, "The size of tensor a"),
        ("qwen3_vl", {"merge_size": 4}, "shape mismatch"),
    ],
)
def test_a_vision_language_model_is_held_to_its_sizes(name, settings, why, with_processor, opened):
    """Every question would fail: that of an image of a usual size does when it is loaded."""
    settings = {"size": settings.get("crop_size"), **settings}
    given = {key: each for key, each in settings.items() if each}
    told = f"the network of tiny/{name} does not take what its image processor makes .*{why}"
    with pytest.raises(MataError, match=told):
        opened(name, with_processor(name, **given))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_size": 4}, _UNMATCHED),
        ({"vision_feature_select_strategy": "full"}, _UNMATCHED),
        ({"patch_size": None}, "the processor of tiny/llava states no patch_size"),
    ],
)
def test_the_pieces_of_llava_are_those_of_its_network(changes, told, with_processor, opened):
    """They are in the processor's own settings, and not in those of the images."""
    path = with_processor("llava")
    file = path / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(MataError, match=told):
        opened("llava", path)


def test_an_encoder_is_held_to_its_own_size(with_processor, session_context):
    """Of an image-text model the size is that of its images' part, also without the texts'."""
    size = {"height": 64, "width": 64}
    spec = ModelSpec("tiny/siglip", "embed", "hf", with_processor("siglip", size=size))
    with pytest.raises(MataError, match=r"of tiny/siglip does not take .* 64x64 pixels does not"):
        embed.load(spec, session_context)


@pytest.mark.parametrize("name", ["vit", "rt_detr", "glpn", "clipseg"])
def test_images_that_are_not_resized(name, with_processor, load_from, picture):
    """One of the size that the network takes is answered; another is the client's fault."""
    backend, model = load_from(name, with_processor(name, do_resize=False))
    params = backend.params(**({"prompts": ("cat",)} if name == "clipseg" else {}))
    side = 32 if name == "vit" else 64
    model.predict([picture(side, side)], [params])
    with pytest.raises(BadRequest, match="resized to 150x90 pixels does not fit this model"):
        model.predict([picture(90, 150)], [params])


def test_a_pose_network_is_held_to_its_size(with_processor, session_context):
    """What it is given are people in a detector's boxes: their size is compared, without any."""
    path = with_processor("vitpose", size={"height": 64, "width": 64})
    people = SimpleNamespace(model=SimpleNamespace(), labels=None)
    context = replace(session_context, settings=Settings(), parts={"person": people})
    told = "tiny/vitpose takes images of 48x64 pixels, but its image processor makes 64x64 of them"
    with pytest.raises(MataError, match=told):
        pose.load(ModelSpec("tiny/vitpose", "pose", "hf", path), context)


def test_a_glpn_of_other_steps_is_refused(with_processor, load_from):
    """Its encoder halves sides five times, and its decoder doubles what is left."""
    told = "multiples of 32 pixels, but its image processor makes multiples of 16"
    with pytest.raises(MataError, match=told):
        load_from("glpn", with_processor("glpn", size_divisor=16))
    with pytest.raises(MataError, match="but its image processor makes multiples of None"):
        load_from("glpn", with_processor("glpn", size_divisor=None))
    load_from("glpn", with_processor("glpn", size_divisor=64))


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("vit", {"size": {"height": 10**6, "width": 10**6}}, "size height 1000000"),
        ("resnet", {"size": {"shortest_edge": 9000}}, "size shortest_edge 10285.71429"),
        ("resnet", {"size": {"shortest_edge": 64}, "crop_pct": 1e-4}, "size shortest_edge 640000"),
        ("clip", {"crop_size": {"height": 10**6, "width": 32}}, "crop_size height 1000000"),
        ("detr", {"pad_size": {"height": 64, "width": 8193}}, "pad_size width 8193"),
        ("siglip2", {"max_num_patches": 10**10}, "max_num_patches 800000"),
        ("oneformer", {"size": {"height": 64, "width": 10**6}}, "size width 1000000"),
        ("mask2former", {"size_divisor": 10**9}, "size_divisor 1000000000"),
        ("eomt", {"size": {"shortest_edge": 10**6}}, "size shortest_edge 1000000"),
        (
            "eomt",
            {"size": {"shortest_edge": 64, "longest_edge": 10**9}},
            "size longest_edge 1000000000",
        ),
        ("qwen2_vl", {"min_pixels": 10**12, "max_pixels": 10**13}, "size shortest_edge 1000000"),
        ("idefics3", {"size": {"longest_edge": 10**6}}, "size longest_edge 1000000"),
        ("llava_next", {"image_grid_pinpoints": [[10**6, 32]]}, "image_grid_pinpoints 1000000"),
        ("got_ocr2", {"size": {"height": 10**6, "width": 10**6}}, "size height 1000000"),
        ("depth_anything", {"size": {"height": 0.5, "width": 56}}, "size height 0.5"),
        ("detr", {"pad_size": {"height": -64, "width": 64}}, "pad_size height -64"),
    ],
)
def test_images_without_end_or_pixels_are_refused(name, settings, told, with_processor, load_from):
    """An image of a model's own settings is allocated whole: a side is neither endless nor none."""
    with pytest.raises(MataError, match=f"makes images of {told}; 1 to 8192 pixels are"):
        load_from(name, with_processor(name, **settings))


def test_a_longer_edge_is_a_bound_alone(with_processor, load_from, picture):
    """Some checkpoints set it beyond every image."""
    size = {"shortest_edge": 64, "longest_edge": 10**6}
    backend, model = load_from("detr", with_processor("detr", size=size))
    assert len(model.predict([picture(90, 150)], [backend.params()])) == 1


def test_a_longer_edge_that_is_no_number_is_refused(with_processor, load_from):
    """Grounding DINO is not tried when it is loaded: each request would fail."""
    path = with_processor("grounding_dino", size={"shortest_edge": 64, "longest_edge": "x"})
    with pytest.raises(MataError, match=r"the image processor configuration of .* cannot be read"):
        load_from("grounding_dino", path)


@pytest.mark.parametrize("name", ["clip", "detr", "mask2former"])
def test_a_line_of_pixels_does_not_fill_a_bound_beyond_every_image(
    name, with_processor, load_from, picture
):
    """How far it is enlarged is limited as without one: a line of 13000 became gigabytes."""
    size = {"shortest_edge": 64, "longest_edge": 10**6}
    backend, model = load_from(name, with_processor(name, size=size))
    params = backend.params(**({"prompts": ("cat",)} if name == "clip" else {}))
    with pytest.raises(BadRequest, match="13000x1 pixels is too small or too narrow"):
        model.predict([picture(1, 13000)], [params])
    assert len(model.predict([picture(90, 150)], [params])) == 1


def test_a_divisor_of_nothing_is_the_model_s_fault(with_processor, load_from):
    """A division by zero is told as other settings that do not fit."""
    with pytest.raises(MataError, match="prepares no image: ZeroDivisionError"):
        load_from("glpn", with_processor("glpn", size_divisor=0))


def test_a_dinov3_is_held_to_the_limit(with_processor, session_context):
    """Its images are prepared here, and not by transformers."""
    path = with_processor("dinov3_vit", size={"height": 9000, "width": 9000})
    with pytest.raises(MataError, match="size height 9000; 1 to 8192"):
        embed.load(ModelSpec("tiny/dinov3", "embed", "hf", path), session_context)

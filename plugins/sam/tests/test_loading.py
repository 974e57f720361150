"""Opening checkpoints: one set of weights, and clear words about those that are broken."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch

from mataserver import MataError, Unavailable
from mataserver_sam import installation, loading

LOADERS = {
    "sam1": loading.load_sam1,
    "sam2": loading.load_sam2,
    "sam3": loading.load_sam3,
}


@pytest.fixture
def path_of(request):
    """``path_of(kind)`` is the tiny checkpoint of a kind."""
    return lambda kind: request.getfixturevalue(f"{kind}_path")


def test_one_set_of_weights(sam3_weights):
    """The image tracker is made of the video model's tensors; none is copied, none is empty."""
    own = {each.data_ptr() for each in sam3_weights.video.parameters()}
    assert {each.data_ptr() for each in sam3_weights.tracker_image.parameters()} <= own
    assert {each.data_ptr() for each in sam3_weights.detector.parameters()} <= own
    assert not any(each.is_meta for each in sam3_weights.tracker_image.parameters())


def test_nothing_is_random(sam3_path):
    """Every weight that is loaded is the checkpoint's: two loads are equal, bit by bit."""
    both = [loading.load_sam3(sam3_path).video.state_dict() for _ in range(2)]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("sam3", "tracker_model.mask_decoder."),
        ("sam3", "tracker_neck."),
        ("sam3", "detector_model.text_projection."),
        ("sam2", "memory_attention."),
        ("sam2", "mask_decoder."),
        ("sam1", "prompt_encoder.mask_embed."),
    ],
)
def test_missing_weights_are_an_error(tiny, path_of, tmp_path, kind, prefix):
    """A checkpoint that lacks weights is refused by their name, never completed at random."""
    tiny.without(path_of(kind), tmp_path / "broken", prefix)
    with pytest.raises(MataError, match=r"lacks \d+ of the weights of \w+, ") as refused:
        LOADERS[kind](tmp_path / "broken")
    assert prefix.rstrip(".") in refused.value.detail


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("config.json", b"{", "configuration|weights"),
        ("model.safetensors", b"nothing", "weights"),
        ("preprocessor_config.json", b"{", "image processor configuration"),
    ],
)
def test_broken_files(path_of, tmp_path, kind, file, content, part):
    """A file that cannot be read is one sentence without a path; the log knows more."""
    copy = tmp_path / "broken"
    shutil.copytree(path_of(kind), copy)
    (copy / file).write_bytes(content)
    with pytest.raises(MataError, match=rf"the ({part}) of the checkpoint cannot be read") as told:
        LOADERS[kind](copy)
    assert str(tmp_path) not in told.value.detail


def test_a_checkpoint_without_a_tokenizer(sam3_path, tmp_path):
    """Without its tokenizer a SAM3 is not served."""
    copy = tmp_path / "mute"
    shutil.copytree(sam3_path, copy, ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(MataError, match="the checkpoint lacks its tokenizer"):
        loading.load_sam3(copy)


@pytest.mark.parametrize(
    ("kind", "file", "settings", "told"),
    [
        (
            "sam3",
            "tokenizer_config.json",
            {"fast_tokenizer_files": ["../other/tokenizer.4.0.0.json"]},
            "fast_tokenizer_files in tokenizer_config.json of the checkpoint names a file outside",
        ),
        (
            "sam2",
            "config.json",
            {
                "vision_config": {
                    "backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/srv"}
                }
            },
            "backbone in config.json of the checkpoint names another checkpoint",
        ),
        (
            "sam1",
            "config.json",
            {"_attn_implementation": "someone/kernel"},
            "_attn_implementation in config.json of the checkpoint names code",
        ),
        (
            "sam1",
            "adapter_config.json",
            {"base_model_name_or_path": "/srv/other"},
            "the checkpoint is an adapter for another",
        ),
    ],
)
def test_what_lies_elsewhere_is_refused(path_of, tmp_path, kind, file, settings, told):
    """Neither files outside of the directory nor parts of the hub are looked for."""
    copy = tmp_path / "copy"
    shutil.copytree(path_of(kind), copy)
    known = json.loads((copy / file).read_text()) if (copy / file).exists() else {}
    (copy / file).write_text(json.dumps(known | settings))
    with pytest.raises(MataError) as refused:
        LOADERS[kind](copy)
    assert refused.value.detail.startswith(told)


@pytest.mark.parametrize("layout", ["preprocessor_config.json", "processor_config.json"])
def test_normalisation_is_the_checkpoints(sam1_path, tmp_path, layout):
    """Mean and deviation are those that the checkpoint names, in either layout of the hub."""
    copy = tmp_path / "own"
    shutil.copytree(sam1_path, copy)
    (copy / "preprocessor_config.json").unlink()
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    nested = {"image_processor": said} if layout == "processor_config.json" else said
    (copy / layout).write_text(json.dumps(nested))
    prepare = loading.load_sam1(copy).prepare
    assert (prepare.mean, prepare.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_devices_and_formats():
    """What this machine does not have is said in words; "auto" is what it has."""
    cpu = torch.device("cpu")
    assert loading.choose_device("cpu") == cpu
    assert loading.choose_dtype("auto", cpu) is torch.float32
    assert loading.choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert loading.choose_dtype("float16", cpu) is torch.float16
    for wrong in ("cuda:9", "gpu"):
        with pytest.raises(Unavailable, match=wrong):
            loading.choose_device(wrong)
    with pytest.raises(Unavailable, match="'int8' is none of auto, float32"):
        loading.choose_dtype("int8", cpu)


def test_sizes_are_told(sam3_weights):
    """The bytes of the weights are those of the checkpoint's file, but for its header."""
    every = sam3_weights.video.state_dict().values()
    assert sam3_weights.size_bytes >= sum(each.numel() * each.element_size() for each in every)


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="there is a torchvision"
)
def test_a_broken_torchvision_is_named(tmp_path, monkeypatch):
    """A torchvision that cannot be imported is told as such; without one all is well."""
    installation.check()
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match="torchvision is installed but cannot be imported"):
        installation.check()

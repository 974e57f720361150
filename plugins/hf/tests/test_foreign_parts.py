"""A checkpoint reads no file outside of its directory, and gets nothing from the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mataserver import MataError, ModelSpec
from mataserver_hf import detect, vlm, zero_shot

LOADS = {"clip": zero_shot.load, "detr": detect.load, "llava": vlm.load}


@pytest.fixture
def changed(checkpoint, tmp_path):
    """``changed(name, file, **settings)`` is a copy of a checkpoint with other settings."""

    def change(name, file, **settings):
        path = tmp_path / name
        if not path.exists():
            shutil.copytree(checkpoint(name), path)
        known = json.loads((path / file).read_text()) if (path / file).exists() else {}
        (path / file).write_text(json.dumps(known | settings))
        return path

    return change


def load(name, path, context):
    return LOADS[name](ModelSpec(f"tiny/{name}", "a task", "hf", path), context)


@pytest.mark.parametrize(
    ("name", "file", "settings", "told"),
    [
        (
            "llava",
            "adapter_config.json",
            {"base_model_name_or_path": "/srv/models/other", "peft_type": "LORA"},
            "tiny/llava is an adapter for another checkpoint",
        ),
        (
            "detr",
            "config.json",
            {"backbone": "microsoft/resnet-50", "backbone_config": None},
            "backbone in config.json of tiny/detr names another checkpoint",
        ),
        (
            "detr",
            "config.json",
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/srv/it"}},
            "backbone in config.json of tiny/detr names another checkpoint",
        ),
        (
            "llava",
            "config.json",
            {"attn_implementation": "kernels-community/flash-attn"},
            "attn_implementation in config.json of tiny/llava names code of another repository",
        ),
        (
            "llava",
            "config.json",
            {"_attn_implementation": {"text_config": "someone/kernel"}},
            "_attn_implementation in config.json of tiny/llava names code of another repository",
        ),
        (
            "llava",
            "config.json",
            {"transformers_weights": "../other/model.safetensors"},
            "transformers_weights in config.json of tiny/llava names a file outside",
        ),
        (
            "clip",
            "tokenizer_config.json",
            {"fast_tokenizer_files": ["tokenizer.json", "../other/tokenizer.4.0.0.json"]},
            "fast_tokenizer_files in tokenizer_config.json of tiny/clip names a file outside",
        ),
        (
            "llava",
            "tokenizer_config.json",
            {"fast_tokenizer_files": ["/srv/other/tokenizer.4.0.0.json"]},
            "fast_tokenizer_files in tokenizer_config.json of tiny/llava names a file outside",
        ),
    ],
)
def test_what_lies_elsewhere_is_refused(name, file, settings, told, changed, session_context):
    """Each is refused by the setting that names it, before anything is looked for."""
    path = changed(name, file, **settings)
    with pytest.raises(MataError) as refused:
        load(name, path, session_context)
    assert refused.value.detail.startswith(told)


def test_a_tokenizer_that_lies_elsewhere_is_not_read(checkpoint, changed, session_context):
    """Files that a tokenizer's settings name are passed over; published ones name some."""
    there = str(Path(checkpoint("clip")) / "tokenizer.json")
    path = changed("clip", "tokenizer_config.json", tokenizer_file=there, vocab_file=there)
    assert load("clip", path, session_context)
    (path / "tokenizer.json").unlink()
    with pytest.raises(MataError, match="the tokenizer of tiny/clip cannot be read"):
        load("clip", path, session_context)


def test_what_is_only_told_is_no_reason(changed, session_context):
    """Where a checkpoint was saved, its backbone's former name, and code that is not run."""
    changed("detr", "config.json", _name_or_path="/srv/models/detr", backbone="microsoft/resnet-50")
    path = changed("detr", "config.json", auto_map={"AutoConfig": "someone/code--config.Config"})
    assert load("detr", path, session_context)


@pytest.mark.parametrize("content", ["{", "[]", '"x"', '{"a": [[{"backbone": 1}]]}'])
def test_settings_that_cannot_be_read(content, changed, session_context):
    """They are transformers' to refuse, by what they hold."""
    path = changed("detr", "config.json")
    (path / "config.json").write_text(content)
    with pytest.raises(MataError, match="cannot be read"):
        load("detr", path, session_context)

"""Checkpoints of vision-language models that cannot be asked, and what their backend takes."""

from __future__ import annotations

import shutil

import msgspec
import pytest

from mataserver import (
    MataError,
    ModelSpec,
)
from mataserver_hf import vlm


def test_no_chat_template(checkpoint, session_context, tmp_path):
    """A checkpoint without a chat template cannot be asked, and says so when it is loaded."""
    path = shutil.copytree(checkpoint("idefics3"), tmp_path / "idefics3")
    (path / "chat_template.jinja").unlink()
    with pytest.raises(MataError, match=r"^tiny/idefics3 has no chat template"):
        vlm.load(ModelSpec("tiny/idefics3", "vlm", "hf", path), session_context)


@pytest.mark.parametrize(
    ("template", "lack"),
    [
        ("{{ messages[-1].content[1].text }}", "has no place for an image"),
        ("<image>", "leaves out the question"),
        ("{% for %}", "takes no question"),
        ("{{ raise_exception('no') }}", "takes no question"),
        ("{% include '/etc/hostname' %}", "takes no question"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "takes no question"),
        ("{% for i in range(10**9) %}{% endfor %}", "takes no question"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "takes no question"),
        ("{{ 'x' * 2**21 }}", "adds more than 1048576 characters"),
    ],
)
def test_a_template_that_takes_no_question(template, lack, checkpoint, session_context, tmp_path):
    """It is refused when the model is loaded, in a sentence that does not blame a request.

    A template is a program of someone else: it reaches no files and no objects of Python.
    """
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    (path / "chat_template.jinja").write_text(template)
    with pytest.raises(MataError, match=f"^the chat template of this checkpoint {lack}") as told:
        vlm.load(ModelSpec("tiny/llava", "vlm", "hf", path), session_context)
    assert told.value.status == 500


def test_unreadable_processor(checkpoint, session_context, tmp_path):
    """A broken processor configuration is one sentence without a path."""
    path = shutil.copytree(checkpoint("qwen2_vl"), tmp_path / "qwen2_vl")
    (path / "processor_config.json").write_text("{")
    with pytest.raises(MataError, match=r"^the .* of tiny/qwen cannot be read") as told:
        vlm.load(ModelSpec("tiny/qwen", "vlm", "hf", path), session_context)
    assert str(tmp_path) not in told.value.detail


def test_families_match_transformers():
    """Every family is a model type of transformers that turns images and text into text."""
    from transformers.models.auto import modeling_auto

    known = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert vlm.FAMILIES.issubset(known)


@pytest.mark.parametrize(
    ("sent", "wrong"),
    [
        ({"prompt": "a", "top_k": 3, "top_p": 0.5, "seed": 1, "output_mode": "json"}, {"seed": -1}),
        ({"prompt": "a", "temperature": 0.5, "max_tokens": 9}, {"output_mode": "xml"}),
    ],
)
def test_params_cross_the_wire(sent, wrong):
    """Params made of JSON values survive the way to a worker, and impossible ones are refused."""
    made = msgspec.convert(sent, vlm.VlmParams)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=vlm.VlmParams) == made
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**sent, **wrong}, vlm.VlmParams)

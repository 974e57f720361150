"""What a checkpoint says of the search for texts: the request decides how many there are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mataserver import MataError, ModelSpec
from mataserver_hf import trocr, vlm
from mataserver_hf.trocr import TrOcrParams
from mataserver_hf.vlm_params import VlmParams

LOADS = {"llava": vlm.load, "trocr": trocr.load}


@pytest.fixture
def with_settings(checkpoint, session_context, tmp_path):
    """``with_settings(name, file, **settings)`` is a loaded checkpoint with other settings."""

    def load(name, file="generation_config.json", max_batch=1, **settings):
        path = shutil.copytree(checkpoint(name), tmp_path / name)
        known = json.loads((path / file).read_text())
        if file == "config.json":  # read for generation only where there is nothing else
            (path / "generation_config.json").unlink()
            known["text_config"] |= settings
        (path / file).write_text(json.dumps(known | settings))
        spec = ModelSpec(f"tiny/{name}", "a task", "hf", path)
        return LOADS[name](spec, replace(session_context, max_batch=max_batch))

    return load


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_settings_that_contradict_are_told(file, with_settings):
    """The reason is theirs, and not that weights cannot be read."""
    with pytest.raises(MataError) as told:
        with_settings("llava", file, num_return_sequences=2, do_sample=False, num_beams=1)
    assert told.value.detail.startswith(
        "the generation settings of tiny/llava cannot be used: Greedy methods"
    )
    assert "`num_return_sequences` different than 1 (got 2)" in told.value.detail


def test_weights_are_still_told_as_weights(checkpoint, load_from, tmp_path):
    """Damaged weights beside sound settings."""
    path = shutil.copytree(checkpoint("llava"), tmp_path / "llava")
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MataError, match="the weights of tiny/llava cannot be read"):
        load_from("llava", path)


@pytest.mark.parametrize("chosen", [{"num_beams": 4}, {"do_sample": True}])
def test_one_text_is_written_whatever_the_checkpoint_says(chosen, with_settings, model, picture):
    """Settings for a search that is not made here do not fail each request."""
    image, params = picture(90, 150), VlmParams(prompt="?", max_tokens=8)
    made = with_settings("llava", num_return_sequences=2, **chosen)
    assert made.predict([image], [params]) == model("llava").predict([image], [params])


@pytest.mark.parametrize("max_batch", [1, 2])
def test_each_picture_gets_its_own_text(max_batch, with_settings, tiny_reading):
    """Of a search for several texts only the best is each picture's, in a batch as alone."""
    found = {"num_beams": 3, "num_return_sequences": 2}
    made = with_settings("trocr", max_batch=max_batch, **found)
    images = [np.full((24, 96, 3), grey, np.uint8) for grey in tiny_reading.LINES]
    results = made.predict(images, [TrOcrParams()] * len(images))
    assert [each.text for each in results] == list(tiny_reading.LINES.values())

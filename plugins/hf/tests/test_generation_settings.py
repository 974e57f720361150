"""What a checkpoint says of the search for texts: the request decides how many there are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mataserver import MataError, ModelSpec
from mataserver_hf import generation_settings, got_ocr2, trocr, vlm
from mataserver_hf.got_ocr2 import GotOcr2Params
from mataserver_hf.trocr import TrOcrParams
from mataserver_hf.vlm_params import VlmParams

LOADS = {
    "florence2": vlm.load,
    "got_ocr2": got_ocr2.load,
    "llava": vlm.load,
    "trocr": trocr.load,
}


@pytest.fixture
def with_settings(checkpoint, session_context, tmp_path):
    """``with_settings(name, file, **settings)`` is a loaded checkpoint with other settings."""

    def load(name, file="generation_config.json", max_batch=1, **settings):
        path = shutil.copytree(checkpoint(name), tmp_path / name, dirs_exist_ok=True)
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


UNFOLLOWED = {
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "max_time": {"max_time": 1e-9},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "num_beam_groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "force_words_ids": {"force_words_ids": [[5]], "num_beams": 2},
    "dola_layers": {"dola_layers": "high"},
    "token_healing": {"token_healing": True},
    "guidance_scale": {"guidance_scale": 2.0},
    "cache_implementation": {"cache_implementation": "offloaded"},
    "max_length": {"max_length": 3},
    "outputs": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "empty lists": {
        "bad_words_ids": [],
        "sequence_bias": [],
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "exponential_decay_length_penalty": [],
        "stop_strings": [],
    },
}


@pytest.mark.parametrize("settings", UNFOLLOWED.values(), ids=UNFOLLOWED)
def test_what_is_not_followed_changes_no_text(settings, with_settings, model, picture):
    """Another search, a limit by the clock or a setting without content: the text is the same."""
    image, params = picture(90, 150), VlmParams(prompt="?", max_tokens=8)
    made = with_settings("llava", **settings)
    assert made.predict([image], [params]) == model("llava").predict([image], [params])


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 2},
        {"bad_words_ids": [[100_000]]},
        {"suppress_tokens": ["x"]},
        {"sequence_bias": [[[5], "x"]]},
        {"exponential_decay_length_penalty": [3]},
        {"forced_eos_token_id": 100_000},
        {"eos_token_id": [[1]]},
        {"eos_token_id": "</s>"},
        {"num_beams": 0},
        {"stop_strings": [7]},
        {"stop_strings": [""]},
    ],
    ids=str,
)
def test_a_setting_that_would_fail_each_request_fails_the_load(settings, with_settings):
    """It is named, with what is wrong with it."""
    [name] = settings
    with pytest.raises(MataError, match=rf"settings of tiny/llava cannot be used: {name}: \S"):
        with_settings("llava", **settings)


@pytest.mark.filterwarnings("ignore:Passing `encoder_")
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": True},
        {"encoder_repetition_penalty": 2},
        {"encoder_no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_a_setting_that_has_no_effect_is_no_fault(settings, with_settings, tiny_reading):
    """``True`` is one beam, and a picture that an encoder reads has no tokens to repeat."""
    made = with_settings("trocr", **settings)
    assert read("trocr", made, tiny_reading) == list(tiny_reading.LINES.values())


NONE = dict.fromkeys(generation_settings.FOLLOWED)  # as if the file named none of them
MARKS = {"eos_token_id": 2, "pad_token_id": 1}


def read(name, made, tiny_reading):
    """What it writes for the pictures that it knows, or for one picture twice."""
    images = [np.full((24, 96, 3), grey, np.uint8) for grey in tiny_reading.LINES]
    asked = VlmParams(prompt="<CAPTION>", max_tokens=8) if name == "florence2" else TrOcrParams()
    return [each.text for each in made.predict(images, [asked] * len(images))]


@pytest.mark.parametrize("name", ["trocr", "florence2"])
@pytest.mark.parametrize("start", ["decoder_start_token_id", "bos_token_id", "both"])
@pytest.mark.parametrize("as_list", [False, True])
def test_one_token_to_begin_with_is_enough(
    name, start, as_list, with_settings, checkpoint, tiny_reading
):
    """A decoder beside an encoder begins with its own first token, or else with that of texts."""
    known = json.loads((checkpoint(name) / "generation_config.json").read_text())
    first, both = known["decoder_start_token_id"], ("decoder_start_token_id", "bos_token_id")
    given = dict.fromkeys(both if start == "both" else [start], [first] if as_list else first)
    same = with_settings(name, max_batch=2, num_beams=2)
    made = with_settings(name, max_batch=2, **(dict.fromkeys(both) | given), num_beams=2)
    assert read(name, made, tiny_reading) == read(name, same, tiny_reading)


@pytest.mark.parametrize("name", ["trocr", "florence2"])
@pytest.mark.parametrize("others", [{}, MARKS | {"num_beams": 4}], ids=str)
def test_without_a_token_to_begin_with_the_load_fails(name, others, with_settings):
    """Each request would fail, whether anything else is set or nothing at all."""
    with pytest.raises(
        MataError, match=f"tiny/{name} cannot be used: neither decoder_start_token_id nor bos_"
    ):
        with_settings(name, **(NONE | others))


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"decoder_start_token_id": 100_000}, "decoder_start_token_id"),
        ({"decoder_start_token_id": [2, 3]}, "decoder_start_token_id"),
        ({"decoder_start_token_id": None, "bos_token_id": 100_000}, "bos_token_id"),
        ({"decoder_start_token_id": None, "bos_token_id": 2, "repetition_penalty": 2}, "repetit"),
        ({"forced_bos_token_id": 100_000}, "forced_bos_token_id"),
    ],
    ids=str,
)
def test_what_fails_a_decoder_beside_an_encoder(settings, culprit, with_settings):
    """The one that is at fault is named, also where others are needed before it."""
    with pytest.raises(MataError, match=rf"tiny/trocr cannot be used: {culprit}\w*: \S"):
        with_settings("trocr", **settings)


def test_what_is_of_no_use_to_a_model_does_not_fail_its_load(with_settings, model, picture):
    """``generate`` never reads these where the picture and question come before the text."""
    image, params = picture(90, 150), VlmParams(prompt="?", max_tokens=8)
    made = with_settings("llava", decoder_start_token_id=100_000, forced_bos_token_id=100_000)
    assert made.predict([image], [params]) == model("llava").predict([image], [params])


@pytest.mark.parametrize("method", ["_get_logits_processor", "_prepare_special_tokens"])
def test_another_transformers_is_no_fault_of_the_settings(method, with_settings, monkeypatch):
    """Without the methods of the trial the settings are taken as they are."""
    from transformers import GenerationMixin

    monkeypatch.delattr(GenerationMixin, method)
    made = with_settings("llava", repetition_penalty=2.0)
    assert made._generator._network._module.generation_config.repetition_penalty == 2.0


@pytest.mark.parametrize("beams", [1, 2])
def test_a_line_ends_before_the_stop_strings_of_its_checkpoint(beams, with_settings, tiny_reading):
    """Whether the text comes at once or in pieces, and alone or in a batch."""
    made = with_settings("trocr", max_batch=2, stop_strings=["e 7", "y", "zzz"], num_beams=beams)
    assert read("trocr", made, tiny_reading) == ["Gat", "no entr"]
    image = np.full((24, 96, 3), next(iter(tiny_reading.LINES)), np.uint8)
    *pieces, result = made.stream(image, TrOcrParams())
    assert ("".join(pieces), result.text) == ("Gat", "Gat")
    assert not result.usage.truncated
    assert result.usage.completion_tokens == len("Gate 7")


def test_a_page_ends_before_the_stop_strings_of_its_checkpoint(with_settings, tiny_reading):
    """Besides the end that all GOT-OCR2 write."""
    page = np.full((64, 64, 3), tiny_reading.PAGE, np.uint8)
    made = with_settings("got_ocr2", stop_strings="ai")
    [result] = made.predict([page], [GotOcr2Params(max_tokens=20)])
    assert (result.text, result.usage.truncated) == ("pl", False)
    [result] = made.predict([page], [GotOcr2Params(ocr_type="format", max_tokens=20)])
    assert (result.text, result.usage.truncated) == (tiny_reading.WRITTEN["format"], False)


def test_settings_that_are_followed(with_settings, model, picture):
    """Bans, lengths and stop strings of the checkpoint: an answer ends before those."""
    image, params = picture(90, 150), VlmParams(prompt="?", max_tokens=8)
    loaded = model("llava")
    [plain] = loaded.predict([image], [params])
    letter = next(each for each in plain.text if each.isascii())
    banned = loaded._prompt_processor.tokenizer.encode(letter, add_special_tokens=False)
    made = with_settings("llava", suppress_tokens=banned)
    assert letter not in made.predict([image], [params])[0].text
    stopped = with_settings("llava", stop_strings=letter)
    [answer] = stopped.predict([image], [params])
    assert answer.text == plain.text.partition(letter)[0]
    assert not answer.usage.truncated
    *pieces, result = stopped.stream(image, params)
    assert ("".join(pieces), result) == (answer.text, answer)


CUT = {"direction": "Right", "max_length": 40, "strategy": "LongestFirst", "stride": 0}
FILLED = {
    "strategy": {"Fixed": 400},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<pad>",
}
TOKENIZERS = (
    ("tokenizer.json", {"truncation": CUT}),
    ("tokenizer.json", {"padding": FILLED}),
    ("tokenizer_config.json", {"truncation": True, "max_length": 40, "model_max_length": 40}),
    ("tokenizer_config.json", {"padding": "max_length", "max_length": 400, "padding_side": "left"}),
    ("tokenizer_config.json", {"pad_to_multiple_of": 64, "padding": True}),
)


@pytest.mark.parametrize("name", [*sorted(vlm.FAMILIES), "got_ocr2"])
@pytest.mark.parametrize("changed", TOKENIZERS, ids=str)
def test_no_question_is_cut_or_filled_up(name, changed, model, checkpoint, load_from, tmp_path):
    """What a tokenizer's files say of truncation and padding is for training: all is read."""
    file, changes = changed
    path = shutil.copytree(checkpoint(name), tmp_path / name, dirs_exist_ok=True)
    known = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(known | changes))
    backend, made = load_from(name, path)
    asked = {} if name == "got_ocr2" else {"prompt": "What is this? " * 4}
    image = np.tile(np.arange(90, dtype=np.uint8)[:, None], (60, 1, 3))
    params = backend.params(**asked, max_tokens=4)
    assert made.predict([image], [params]) == model(name).predict([image], [params])

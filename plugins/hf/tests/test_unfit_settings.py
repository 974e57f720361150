"""Settings of an image processor that do not fit each other: the image is not to blame."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mataserver import BadRequest, MataError
from mataserver_hf.vlm_params import VlmParams

PARAMS = {
    "resnet": {},
    "detr": {},
    "glpn": {},
    "llava": {"prompt": "?"},
    "qwen3_vl": {"prompt": "?"},
}


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_settings_that_do_not_fit_are_the_model_s_fault(
    name, checkpoint, load_from, picture, tmp_path
):
    """Three means are needed for three colours: 500 says so, and does not call the image small."""
    path = shutil.copytree(checkpoint(name), tmp_path / name)
    for file in path.glob("*processor_config.json"):
        settings = json.loads(file.read_text())
        part = settings.get("image_processor", settings)
        part |= {"do_normalize": True, "image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}
        file.write_text(json.dumps(settings))

    def ask():
        # Networks that read texts, too, are not tried when they are loaded.
        backend, model = load_from(name, path)
        model.predict([picture(90, 150)], [backend.params(**PARAMS[name])])

    with pytest.raises(MataError, match=r"prepares no image: .*3") as told:
        ask()
    assert told.value.status == 500


def test_an_image_at_fault_is_told_as_before(model):
    """Where a usual image would be prepared, the size of this one is named."""
    with pytest.raises(BadRequest, match="300x1 pixels is too small or too narrow"):
        model("qwen3_vl").predict([np.zeros((1, 300, 3), np.uint8)], [VlmParams(prompt="?")])


def changed(path, **settings):
    """Write settings into the image processor's file of a checkpoint."""
    for file in path.glob("*processor_config.json"):
        known = json.loads(file.read_text())
        known.get("image_processor", known).update(settings)
        file.write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("resnet", {"size": {"height": 48, "width": 40}}), ("zoedepth", {"resample": 0})],
)
def test_what_a_processor_stumbles_over_is_the_model_s_fault(
    name, settings, checkpoint, load_from, tmp_path
):
    """Also where it raises what is meant for programmers: a missing key, or a missing attribute."""
    path = shutil.copytree(checkpoint(name), tmp_path / name)
    changed(path, **settings)
    with pytest.raises(MataError, match=r"prepares no image: \w+Error: "):
        load_from(name, path)


@pytest.mark.parametrize("name", ["resnet", "detr", "glpn"])
def test_pixels_may_stay_as_they_are(name, checkpoint, load_from, picture, tmp_path):
    """A network that takes 0 to 255 itself gets those numbers, in its own format."""
    import torch

    path = shutil.copytree(checkpoint(name), tmp_path / name)
    changed(path, do_rescale=False, do_normalize=False)
    backend, model = load_from(name, path)
    params = backend.params(**({} if name == "glpn" else {"confidence": 0.0}))
    as_given = model.predict([picture(90, 150)], [params])
    changed(path, do_rescale=True, rescale_factor=1.0)
    _, same = load_from(name, path)
    [(_, tensors)] = same._preprocessor.groups([picture(90, 150)])
    assert tensors["pixel_values"].dtype == torch.float32
    assert float(tensors["pixel_values"].max()) > 150
    [expected] = same.predict([picture(90, 150)], [params])
    if name == "glpn":
        assert np.array_equal(as_given[0].depth_map, expected.depth_map)
    else:
        assert as_given == [expected]


@pytest.mark.parametrize(
    ("name", "beams"), [("trocr", 1), ("trocr", 2), ("got_ocr2", 1), ("got_ocr2", 2), ("llava", 1)]
)
def test_no_text_is_made_of_what_is_no_number(
    name, beams, checkpoint, load_from, picture, tmp_path
):
    """Where a network computes NaN, as after an overflow, what it writes looks like an answer."""
    path = shutil.copytree(checkpoint(name), tmp_path / name)
    changed(path, image_mean=[float("nan")] * 3)
    file = path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_beams": beams}))
    backend, model = load_from(name, path)
    with pytest.raises(MataError, match="computed NaN or infinite values"):
        model.predict([picture(64, 64)], [backend.params(max_tokens=4, **PARAMS.get(name, {}))])


@pytest.mark.parametrize(
    ("name", "setting", "count", "least"),
    [
        ("llava", "num_additional_image_tokens", 10**9, 0),
        ("idefics3", "image_seq_len", 10**9, 1),
        ("qwen2_vl", "temporal_patch_size", 10**9, 1),
        ("qwen2_vl", "merge_size", 0, 1),
        ("llava_next", "patch_size", 0.5, 1),
    ],
)
def test_an_image_has_a_number_of_pieces(  # noqa: PLR0917 - four of them are the case
    name, setting, count, least, checkpoint, load_from, tmp_path
):
    """Its text is filled up with as many placeholders: a billion took all memory at a request."""
    path = shutil.copytree(checkpoint(name), tmp_path / name)
    for file in path.glob("*processor_config.json"):
        known = json.loads(file.read_text())
        part = known.get("image_processor", known) if name == "qwen2_vl" else known
        file.write_text(json.dumps(known | part | {setting: count}))
    told = f"states the {setting} {count}; it must be a whole number from {least} to 8192"
    with pytest.raises(MataError, match=told):
        load_from(name, path)

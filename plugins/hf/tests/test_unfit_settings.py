"""Settings of an image processor that do not fit each other: the image is not to blame."""

from __future__ import annotations

import json
import shutil

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
    backend, model = load_from(name, path)
    with pytest.raises(MataError, match=r"prepares no image: .*3") as told:
        model.predict([picture(90, 150)], [backend.params(**PARAMS[name])])
    assert told.value.status == 500


def test_an_image_at_fault_is_told_as_before(model):
    """Where a usual image would be prepared, the size of this one is named."""
    import numpy as np

    with pytest.raises(BadRequest, match="300x1 pixels is too small or too narrow"):
        model("qwen3_vl").predict([np.zeros((1, 300, 3), np.uint8)], [VlmParams(prompt="?")])

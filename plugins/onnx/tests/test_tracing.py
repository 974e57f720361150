"""What is not traced, as what would come of it could not be told from what is right."""

from __future__ import annotations

import pytest
import transformers

from mataserver import MataError
from mataserver_onnx.export import families, photos, tracing


def test_a_dpt_of_images_that_are_no_squares_is_not_exported(tmp_path):
    """Transformers mixes up its patches, here as many as of a square, and torch would agree."""
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = transformers.DPTConfig(
        **small,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
    )
    transformers.DPTForDepthEstimation(config).save_pretrained(tmp_path / "dpt")
    size = {"height": 32, "width": 128}
    transformers.DPTImageProcessorPil(size=size).save_pretrained(tmp_path / "dpt")
    opened = tracing.Checkpoint(tmp_path / "dpt", families.find({"model_type": "dpt"}, "depth"))
    with pytest.raises(MataError, match=r"for a square's.* makes images of 128x32 pixels"):
        opened.write(tmp_path, "onnx", photos.read(None), int8=False)

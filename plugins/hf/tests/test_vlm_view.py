"""The part of an image that a LLaVA sees, by what its image processor makes of the image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

HIGH, WIDE = 200, 300

SETTINGS = (
    {"size": {"shortest_edge": 64}, "crop_size": 64},
    {"size": {"shortest_edge": 64}, "crop_size": 48},
    {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 60}},
    {"size": {"shortest_edge": 64}, "crop_size": 64, "do_center_crop": False},
    {"size": {"height": 64, "width": 64}, "crop_size": 64},
    {"size": {"height": 64, "width": 64}, "crop_size": 48},
    {"size": {"height": 64, "width": 96}, "crop_size": 64},
    {"size": {"shortest_edge": 64}, "crop_size": 100, "do_resize": False},
    {"size": {"shortest_edge": 64, "longest_edge": 80}, "crop_size": 50},
    {"size": {"max_height": 64, "max_width": 150}, "crop_size": 48},
    {"size": {"max_height": 64, "max_width": 90}, "crop_size": {"height": 48, "width": 100}},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_places_are_those_of_the_image(settings):
    """Each pixel that the network sees lies where the view says, however it was cut out.

    The red of the image is a place's distance from the left, the green that from the top.
    """
    from transformers import CLIPImageProcessorPil

    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.prompt_processor import PromptProcessor

    pixels = CLIPImageProcessorPil(do_normalize=False, do_rescale=False, **settings)
    image = np.zeros((HIGH, WIDE, 3), np.uint8)
    image[..., 0] = (np.arange(WIDE) + 0.5) * 255 / WIDE
    image[..., 1] = (np.arange(HIGH) + 0.5)[:, None] * 255 / HIGH
    [seen] = pixels(images=[image], input_data_format="channels_last")["pixel_values"]
    processor = SimpleNamespace(image_processor=pixels)
    view = PromptProcessor(processor, Preprocessor(pixels), "llava").view(image, {})
    left, top, width, height = view.region
    _, rows, columns = seen.shape
    for row, column in ((rows // 3, columns // 4), (rows // 2, columns * 2 // 3)):
        x, y = (float(each) for each in seen[:2, row, column])
        assert abs(left + (column + 0.5) / columns * width - x * WIDE / 255) < 3.5
        assert abs(top + (row + 0.5) / rows * height - y * HIGH / 255) < 3.5

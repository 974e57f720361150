"""Tiny classifiers with random weights of the families that ``tiny`` has none of."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 64
LABELS = {index: f"class {index}" for index in range(6)}
_PATCHES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 16,
}
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
_PVT: dict[str, Any] = {**_STAGES, "image_size": SIDE, "num_attention_heads": [1, 1, 2, 2]}
_SWIN: dict[str, Any] = {
    "image_size": SIDE,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "beit": {**_PATCHES, "use_relative_position_bias": True},
    "bit": {**_STAGES, "embedding_size": 8, "num_groups": 2},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "cvt": {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "data2vec-vision": {**_PATCHES, "use_relative_position_bias": True},
    "deit": _PATCHES,
    "dinov2": _PATCHES,
    "dinov2_with_registers": _PATCHES,
    "efficientnet": {
        "width_coefficient": 0.3,
        "depth_coefficient": 0.3,
        "image_size": SIDE,
        "hidden_dim": 384,
    },
    "focalnet": {
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "image_size": SIDE,
        "hidden_sizes": [8, 16, 32, 64],
    },
    "hiera": {
        "embed_dim": 8,
        "image_size": [SIDE, SIDE],
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
    },
    "levit": {
        "image_size": SIDE,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [1, 2, 3],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": SIDE},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": SIDE},
    "mobilevit": {
        "hidden_sizes": [16, 20, 24],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 20, 32],
        "image_size": SIDE,
    },
    "mobilevitv2": {"image_size": SIDE, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1]},
    "poolformer": _STAGES,
    "pvt": _PVT,
    "pvt_v2": _PVT,
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 4},
    "segformer": {
        **_STAGES,
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "siglip": {"vision_config": _PATCHES},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 16]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit_msn": _PATCHES,
}
"""What makes a network of each ``model_type`` tiny."""


def _processor(family: str) -> Any:
    """The processor that transformers names for a family, for images of ``SIDE`` pixels."""
    import transformers
    from transformers.models.auto import image_processing_auto

    known = "dinov2" if family == "dinov2_with_registers" else family
    name = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[known]["pil"]
    kind = getattr(transformers, name)
    usual = kind()
    options: dict[str, Any] = {"size": dict.fromkeys(dict(usual.size), SIDE)}
    if getattr(usual, "do_center_crop", False):
        options["crop_size"] = {"height": SIDE, "width": SIDE}
    return kind(**options)


def build(path: Path, tiny: Any, *, family: str) -> None:
    """Write the checkpoint of a ``model_type``."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto

    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[family]
    config = transformers.AutoConfig.for_model(
        family,
        id2label=LABELS,
        label2id={label: index for index, label in LABELS.items()},
        **CONFIGS[family],
    )
    if config.num_labels != len(LABELS):  # PVT's configuration does not count them
        config.num_labels = len(LABELS)
    model = getattr(transformers, names if isinstance(names, str) else names[0])(config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.reset_parameters()  # EfficientNet's are near zero at first, and so is all then
    tiny.spread(model, SIDE)
    tiny._save(path, model, _processor(family))
    # Versions of transformers before 5 did not write the number of classes beside their names.
    file = path / "config.json"
    written = json.loads(file.read_text())
    written.pop("num_labels", None)
    file.write_text(json.dumps(written))


def builders(tiny: Any) -> dict[str, Callable[[Path], None]]:
    """Return every builder of this module; ``tiny`` is the module of the common parts."""
    return {f"{family}_classifier": partial(build, tiny=tiny, family=family) for family in CONFIGS}

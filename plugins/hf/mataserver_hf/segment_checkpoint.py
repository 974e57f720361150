"""Opens the checkpoints of segmentation networks. Only ``load`` imports this module."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

from mataserver_hf.checkpoint import Checkpoint
from mataserver_hf.pixels import Pixels
from mataserver_hf.segment_classes import ClassReader
from mataserver_hf.segment_eomt import EomtReader
from mataserver_hf.segment_queries import MODES, QueryReader

if TYPE_CHECKING:
    from mataserver_hf.network import Network
    from mataserver_hf.segment_reader import Reader

_MASK2FORMER_SIDE = 384
# transformers types these in part only.
_configs: Any = AutoConfig
_processors: Any = AutoImageProcessor

# What the published checkpoints with as many classes were trained for: 80 and 8 are the things of
# COCO and Cityscapes, 133 are COCO's things and stuff, the others label every pixel (Cityscapes,
# Mapillary Vistas, ADE20K, COCO-Stuff, full ADE20K).
_TRAINED_FOR = {
    **dict.fromkeys((8, 80), "instance"),
    133: "panoptic",
    **dict.fromkeys((19, 65, 150, 171, 847), "semantic"),
}


def natural_mode(name: str, classes: int) -> str:
    """Guess what a network with mask queries was trained for; nothing in its files says it.

    The names of published checkpoints end in it ("...-coco-instance"); else the number of classes
    tells the usual data sets apart; else "panoptic", which suits things and stuff alike.
    """
    said = [word for word in re.split(r"[^a-z]+", name.lower()) if word in MODES]
    return said[-1] if said else _TRAINED_FOR.get(classes, "panoptic")


class TensorsOnly:
    """An image processor whose answers are rid of what is no tensor."""

    def __init__(self, processor: Any) -> None:
        """Wrap ``processor``."""
        self._processor = processor

    def __call__(self, **given: Any) -> dict[str, torch.Tensor]:
        """Prepare images."""
        prepared = self._processor(**given)
        return {name: each for name, each in prepared.items() if isinstance(each, torch.Tensor)}


class SegmentCheckpoint(Checkpoint):
    """The files of a segmentation network."""

    def open(self) -> tuple[Network, Pixels, Reader]:
        """Load the network and what belongs to its family."""
        with self._reading("configuration"):
            config = _configs.from_pretrained(
                self._path, local_files_only=True, trust_remote_code=False
            )
        family = config.model_type
        auto = natural_mode(self.name, config.num_labels)
        if any(
            str(name).endswith("ForSemanticSegmentation") for name in config.architectures or ()
        ):
            return (
                self.network(AutoModelForSemanticSegmentation),
                self.whole_pixels(),
                ClassReader(),
            )
        network = self.network(AutoModelForUniversalSegmentation)
        if family == "oneformer":
            return network, self._oneformer_pixels(), self._oneformer_reader(config)
        pixels = self.whole_pixels()
        if family in {"eomt", "eomt_dinov3"}:
            reader: Reader = EomtReader(auto, pixels.processor)
            return network, Pixels(TensorsOnly(pixels.processor)), reader
        if family == "detr":
            reader = QueryReader("panoptic", outputs=("logits", "pred_masks"), overlapping=False)
        else:
            side = _MASK2FORMER_SIDE if family == "mask2former" else None
            reader = QueryReader(auto, side=side)
        return network, pixels, reader

    def _oneformer_pixels(self) -> Pixels:
        # Its list of classes is for training, and lies in another repository of the hub.
        with self._reading("image processor configuration"):
            processor = _processors.from_pretrained(
                self._path,
                backend="pil",
                class_info_file=None,
                local_files_only=True,
                trust_remote_code=False,
            )
        return Pixels(TensorsOnly(processor))

    def _oneformer_reader(self, config: Any) -> QueryReader:
        tokens = self.tokenizer()(
            [f"the task is {mode}" for mode in MODES],
            padding="max_length",
            max_length=config.task_seq_len,
            truncation=True,
            return_tensors="pt",
        )
        # Filling tokens are zeros, whatever the tokenizer fills up with.
        sentences = tokens["input_ids"] * tokens["attention_mask"]
        tasks = dict(zip(MODES, sentences, strict=True))
        return QueryReader("panoptic", tasks=tasks, stuff=self._stuff())

    def _stuff(self) -> frozenset[int]:
        """Return the classes without instances, if the checkpoint brings its list of classes."""
        settings = self.image_settings()
        with self._reading("list of classes"):
            listed = Path(self._path) / Path(settings.get("class_info_file") or "").name
            if not listed.is_file():
                return frozenset()
            classes = json.loads(listed.read_bytes())
            return frozenset(int(key) for key, each in classes.items() if not each["isthing"])

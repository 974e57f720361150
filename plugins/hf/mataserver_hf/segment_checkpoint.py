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
from mataserver_hf.preprocessor import Preprocessor
from mataserver_hf.segment_classes import ClassReader
from mataserver_hf.segment_eomt import EomtReader
from mataserver_hf.segment_queries import MODES, QueryReader

if TYPE_CHECKING:
    from mataserver_hf.network import Network
    from mataserver_hf.segment_reader import SegmentReader

_MASK2FORMER_SIDE = 384
# transformers types these in part only.
_configs: Any = AutoConfig
_processors: Any = AutoImageProcessor

# What the published checkpoints with as many classes were trained for: 80 and 8 are the things of
# COCO and Cityscapes, 133 are COCO's things and stuff, the others label every pixel (Cityscapes,
# Mapillary Vistas, ADE20K, COCO-Stuff, full ADE20K).
_MODE_BY_CLASSES = {
    **dict.fromkeys((8, 80), "instance"),
    133: "panoptic",
    **dict.fromkeys((19, 65, 150, 171, 847), "semantic"),
}


def default_mode(name: str, classes: int) -> str:
    """Guess what a network with mask queries was trained for; its files do not state it.

    The names of published checkpoints end in it ("...-coco-instance"); else the number of classes
    identifies the usual data sets; else "panoptic", which suits both countable things and regions.
    """
    named = [word for word in re.split(r"[^a-z]+", name.lower()) if word in MODES]
    return named[-1] if named else _MODE_BY_CLASSES.get(classes, "panoptic")


class TensorsOnly:
    """An image processor whose output is reduced to its tensors."""

    def __init__(self, processor: Any) -> None:
        """Wrap ``processor``."""
        self.wrapped = processor

    def __call__(self, **given: Any) -> dict[str, torch.Tensor]:
        """Prepare images."""
        prepared = self.wrapped(**given)
        return {name: each for name, each in prepared.items() if isinstance(each, torch.Tensor)}


class SegmentCheckpoint(Checkpoint):
    """The files of a segmentation network."""

    def open(self) -> tuple[Network, Preprocessor, SegmentReader]:
        """Load the network, its preprocessor and the reader of its family."""
        with self._reading("configuration"):
            config = _configs.from_pretrained(
                self._path, local_files_only=True, trust_remote_code=False
            )
        family = config.model_type
        auto = default_mode(self.name, config.num_labels)
        if any(
            str(name).endswith("ForSemanticSegmentation") for name in config.architectures or ()
        ):
            return (
                self.network(AutoModelForSemanticSegmentation),
                self.uncropped_preprocessor(),
                ClassReader(),
            )
        network = self.network(AutoModelForUniversalSegmentation)
        if family == "oneformer":
            return network, self._oneformer_preprocessor(), self._oneformer_reader(config)
        preprocessor = self.uncropped_preprocessor()
        if family in {"eomt", "eomt_dinov3"}:
            reader: SegmentReader = EomtReader(auto, preprocessor.processor)
            tensors = TensorsOnly(preprocessor.processor)
            return network, Preprocessor(tensors, self.max_pixels), reader
        if family == "detr":
            reader = QueryReader("panoptic", outputs=("logits", "pred_masks"), overlapping=False)
        else:
            side = _MASK2FORMER_SIDE if family == "mask2former" else None
            reader = QueryReader(auto, side=side)
        return network, preprocessor, reader

    def _oneformer_preprocessor(self) -> Preprocessor:
        # Its list of classes is used in training only, and is in another repository of the hub.
        with self._reading("image processor configuration"):
            processor = _processors.from_pretrained(
                self._path,
                backend="pil",
                class_info_file=None,
                local_files_only=True,
                trust_remote_code=False,
            )
            return Preprocessor(TensorsOnly(processor), self.max_pixels)

    def _oneformer_reader(self, config: Any) -> QueryReader:
        tokens = self.tokenizer()(
            [f"the task is {mode}" for mode in MODES],
            padding="max_length",
            max_length=config.task_seq_len,
            truncation=True,
            return_tensors="pt",
        )
        # Padding must be zeros, whichever padding token the tokenizer uses.
        sentences = tokens["input_ids"] * tokens["attention_mask"]
        tasks = dict(zip(MODES, sentences, strict=True))
        return QueryReader("panoptic", tasks=tasks, stuff=self._stuff())

    def _stuff(self) -> frozenset[int]:
        """Return the classes without instances, if the checkpoint contains its list of classes."""
        settings = self.image_settings()
        with self._reading("list of classes"):
            listed = Path(self._path) / Path(settings.get("class_info_file") or "").name
            if not listed.is_file():
                return frozenset()
            classes = json.loads(listed.read_bytes())
            return frozenset(int(key) for key, each in classes.items() if not each["isthing"])

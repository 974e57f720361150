"""Keypoints of people: a detector finds them, ViTPose estimates the joints of each.

ViTPose (Xu et al. 2022, arXiv:2204.12484) predicts one heatmap per joint from the crop of one
person. ViTPose+ (arXiv:2212.04246) has one expert per data set that it was trained on; the head of
the published checkpoints is COCO's, so COCO's expert is used. Names and order of the joints are
those of ``id2label`` in ``config.json``: COCO's 17, from the nose to the right ankle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import Confidence, Keypoint, MataError, Params, Part, PoseResult
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import Box, LoadContext, LoadedPart, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.options import Settings

    Image = NDArray[np.uint8]

FAMILIES = frozenset({"vitpose"})
"""The values of ``model_type`` that it serves."""

PEOPLE_PER_PASS = 16
"""The maximum number of people in one forward pass, which bounds its memory in a crowd."""

PERSON = "person"
"""The label of every item, whatever the detector's label for people is."""

_COCO_EXPERT = 0
_SHOWN_LABELS = 10
_MIN_ROWS = 4  # the processor mistakes a picture of three rows for a channels-first one


class PoseParams(Params, frozen=True):
    """``confidence``: the lowest score of a person that is returned; joints are never dropped."""

    confidence: Confidence = 0.5


class _Person(NamedTuple):
    image: int
    score: float
    box: Box


class PersonDetector:
    """Any detector that has a label for people."""

    def __init__(self, part: LoadedPart, label: str) -> None:
        """Keep the detector and its label for a person.

        Raises ``MataError`` for a detector that states its labels, and has no such one.
        """
        labels = part.labels
        if labels is not None and label.casefold() not in {each.casefold() for each in labels}:
            known = ", ".join(labels[:_SHOWN_LABELS])
            raise MataError(
                f"plugins.hf.person_label: the detector of people has no label {label!r}; "
                f"it has {known}{', …' if len(labels) > _SHOWN_LABELS else ''}"
            )
        self._part = part
        self._label = label.casefold()

    def find(self, images: Sequence[Image], params: Sequence[PoseParams]) -> list[_Person]:
        """Return the people of all images whose score is at least their image's confidence."""
        wanted = [
            self._part.params_with(confidence=each.confidence, prompts=[self._label])
            for each in params
        ]
        results: Any = self._part.model.predict(images, wanted)
        return [
            _Person(index, each.confidence, each.bbox)
            for index, result in enumerate(results)
            for each in result.detections
            if each.label.casefold() == self._label
            and each.confidence >= params[index].confidence
            and each.bbox[2] > each.bbox[0]
            and each.bbox[3] > each.bbox[1]
        ]


class PoseEstimator:
    """A network that predicts the joints of one person, run on a detector's boxes."""

    def __init__(self, network: Network, processor: Any, people: PersonDetector) -> None:
        """Keep the loaded parts; ``processor`` is ViTPose's own image processor."""
        self._network = network
        self._processor = processor
        self._people = people
        self._has_experts = network.config.backbone_config.num_experts > 1

    def predict(self, images: Sequence[Image], params: Sequence[PoseParams]) -> list[PoseResult]:
        """Return the people of each image in the detector's order.

        An item's confidence and box are the detector's. A joint's confidence is the height of its
        peak in the heatmap, clipped to 0..1; its position is clipped to the image, so joints beyond
        the border lie on it.
        """
        found: list[list[Keypoint]] = [[] for _ in images]
        people = self._people.find(images, params)
        for start in range(0, len(people), PEOPLE_PER_PASS):
            group = people[start : start + PEOPLE_PER_PASS]
            for person, pose in zip(group, self._poses(images, group), strict=True):
                found[person.image].append(_keypoint(person, pose, *images[person.image].shape))
        return [PoseResult(each) for each in found]

    def close(self) -> None:
        """Free the weights; the detector is closed by its owner."""
        self._network.close()

    def _poses(self, images: Sequence[Image], people: Sequence[_Person]) -> list[dict[str, Any]]:
        import torch

        boxes = [[_to_xywh(person.box)] for person in people]
        crops = [
            self._crop(images[person.image], box) for person, box in zip(people, boxes, strict=True)
        ]
        tensors = {"pixel_values": torch.cat(crops)}
        if self._has_experts:
            tensors["dataset_index"] = torch.full((len(people),), _COCO_EXPERT)
        output = self._network.run(tensors)
        output.heatmaps = self._network.finite(output.heatmaps)
        # A threshold here would leave joints out and shift the others, which are named by position.
        answers = self._processor.post_process_pose_estimation(output, boxes=boxes, threshold=None)
        return [pose for [pose] in answers]

    def _crop(self, image: Image, box: list[list[float]]) -> Any:
        prepared = self._processor(
            images=[_pad_rows(image)],
            boxes=[box],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        return prepared["pixel_values"]


def _pad_rows(image: Image) -> Image:
    """Add black rows below a picture of three or fewer; outside the image is black anyway."""
    import numpy as np

    missing = max(0, _MIN_ROWS - image.shape[0])
    return np.pad(image, ((0, missing), (0, 0), (0, 0))) if missing else image


def _to_xywh(box: Box) -> list[float]:
    """Turn ``(x1, y1, x2, y2)`` into COCO's ``[x, y, width, height]``."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _keypoint(
    person: _Person, pose: dict[str, Any], height: int, width: int, _channels: int
) -> Keypoint:
    joints = [
        (min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height)), min(max(score, 0.0), 1.0))
        for (x, y), score in zip(pose["keypoints"].tolist(), pose["scores"].tolist(), strict=True)
    ]
    return Keypoint(PERSON, person.score, person.box, joints)


def load(spec: ModelSpec, ctx: LoadContext) -> PoseEstimator:
    """Load a pose estimator; ``ctx.parts["person"]`` is the detector.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForPoseEstimation

    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.preprocessor import stated_sizes

    settings: Settings = ctx.settings
    people = PersonDetector(ctx.parts["person"], settings.person_label)
    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForPoseEstimation)
    processor = checkpoint.preprocessor().processor
    made = (processor.size["height"], processor.size["width"])
    for height, width in stated_sizes(network.config):
        if (height, width) != made:
            raise MataError(
                f"the network of {spec.name} takes images of {width}x{height} pixels, but its "
                f"image processor makes {made[1]}x{made[0]} of them"
            )
    return PoseEstimator(network, processor, people)


def parts(_files: ModelFiles, settings: Settings) -> Mapping[str, Part]:
    """Name the detector of people, which the settings choose."""
    return {"person": Part(settings.person_detector, "detect")}


BACKEND = installation.backend(
    name="hf-pose",
    task="pose",
    load=load,
    params=PoseParams,
    accepts=FAMILIES,
    parts=parts,
)

"""The objects of a video that texts name: found and tracked by SAM3's video model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from mataserver_sam.clicks import finite
from mataserver_sam.forgetting import NOWHERE, thin
from mataserver_sam.masks import stretched
from mataserver_sam.sighting import Sighting, apart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_sam.encoded_frame import Features
    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network
    from mataserver_sam.weights import Weights

KEPT_CONDITIONING = 8
"""Of the frames on which the detector confirmed an object (every 16th), so many are remembered."""

_BY_OBJECT = (
    "obj_first_frame_idx",
    "unmatched_frame_inds",
    "trk_keep_alive",
    "obj_id_to_score",
    "obj_id_to_prompt_id",
)


class TextSession(Sam3VideoInferenceSession):
    """A session that gives up objects when a frame is done.

    ``Sam3VideoModel`` removes them while it still pairs masks with ``obj_ids``: those behind a
    removed object get the mask and the score of their neighbour.
    """

    def __init__(self, **chosen: Any) -> None:
        super().__init__(**chosen)
        self._leaving: list[int] = []

    def remove_object(self, obj_id: int, strict: bool = False) -> None:  # noqa: ARG002 - the base's signature
        """Note an object that leaves."""
        self._leaving.append(obj_id)

    def part(self) -> set[int]:
        """Remove the objects that leave; return which."""
        left = set(self._leaving)
        for number in self._leaving:
            self.obj_ids = list(self._obj_id_to_idx)
            super().remove_object(number)
        self._leaving.clear()
        return left


class TextTracks:
    """Everything that texts name in one video.

    Objects are numbered from 0, as they are found.
    """

    def __init__(
        self, weights: Weights, network: Network, footage: Footage, features: Features
    ) -> None:
        self._weights = weights
        self._model = weights.video
        self._size = footage.size
        self.session = network.session_of(TextSession, footage.size)
        self.session.processed_frames = footage
        self.session.cache = features
        self._reach = network.reach
        self.logits: dict[int, torch.Tensor] = {}
        """Of the objects on the last frame, ``[h, w]`` by number; removed ones among them."""
        self._scores: dict[int, float] = {}
        self._hidden: set[int] = set()
        self._last: list[Sighting] = []
        self._frame = -1

    def add(self, texts: Sequence[str]) -> set[int]:
        """Look for what ``texts`` name from the next step on; return the numbers of the texts.

        Raises ``InvalidParams`` when one is too long; then none is looked for.
        """
        session, tokens = self.session, self._weights.tokens(list(texts))
        numbers: list[int] = [session.add_prompt(text) for text in texts]
        for row, number in enumerate(numbers):
            session.prompt_input_ids[number] = tokens["input_ids"][row : row + 1]
            session.prompt_attention_masks[number] = tokens["attention_mask"][row : row + 1]
        self._frame = -1
        return set(numbers)

    @property
    def numbers(self) -> list[int]:
        """The objects that are tracked and not hidden."""
        return [number for number in self.session.obj_ids if number not in self._hidden]

    def hide(self, number: int) -> None:
        """Show an object no more. It is tracked on, or else the detector would find it anew."""
        self._hidden.add(number)
        self._last = self._sightings()

    def text_of(self, number: int) -> int:
        """Return the number of the text that an object was found by."""
        found: int = self.session.obj_id_to_prompt_id[number]
        return found

    def step(self, frame: int, *, reverse: bool = False, pinned: range = NOWHERE) -> list[Sighting]:
        """Track every object to ``frame`` and look for new ones; return those that are visible.

        What a later step back from the start of ``pinned`` reads of them is not forgotten. The
        frame of the last step is not run again.
        """
        if frame == self._frame:
            return self._last
        session = self.session
        for outputs in session.output_dict_per_obj.values():
            self._reach.arrive(outputs, frame, reverse=reverse)
        found = self._model(session, frame_idx=frame, reverse=reverse)
        unseen = session.part() | set(found.suppressed_obj_ids or ())
        self._scores = dict(found.obj_id_to_tracker_score)
        masks = {number: mask[0] for number, mask in found.obj_id_to_mask.items()}
        self.logits = {number: masks[number] for number in sorted(masks) if number not in unseen}
        self._forget(frame, pinned)
        self._last = self._sightings()
        self._frame = frame
        return self._last

    def seen(self, number: int, frame: int) -> torch.Tensor | None:
        """Return the logits ``[h, w]`` of an object on a frame; None where it is not visible."""
        self.step(frame)
        return self.logits.get(number)

    def tensors(self) -> list[Any]:
        """Return what holds memory, for ``held_bytes``."""
        return [vars(self.session), self.logits]

    def _sightings(self) -> list[Sighting]:
        """Return who is visible; as the model's processor, let objects of one text not overlap.

        A hidden object keeps its pixels: what it covers, maybe its double, must not come to light.
        """
        if not self.logits:
            return []
        planes = finite(torch.stack(list(self.logits.values()))).cpu().numpy()
        groups: dict[int, list[Sighting]] = {}
        for number, plane in zip(self.logits, planes, strict=True):
            score = float(self._scores.get(number, 0.0))
            seen = Sighting(number, score, stretched(plane, self._size))
            groups.setdefault(self.text_of(number), []).append(seen)
        visible = [each for group in groups.values() for each in apart(group)]
        shown = [each for each in visible if each.number not in self._hidden]
        return sorted(shown, key=lambda each: each.number)

    def _forget(self, frame: int, pinned: range) -> None:
        """Forget what no later frame needs; transformers would copy all of it for every frame."""
        session = self.session
        for index, outputs in session.output_dict_per_obj.items():
            self._reach.leave(outputs, frame, pinned)
            thin(outputs["cond_frame_outputs"], frame, KEPT_CONDITIONING)
            session.mask_inputs_per_obj[index].clear()
            session.frames_tracked_per_obj[index].clear()
        for by_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
            for number in [each for each in by_frame if each != frame]:
                del by_frame[number]
        self._forget_objects()

    def _forget_objects(self) -> None:
        session, model = self.session, self._model
        gone = session.removed_obj_ids
        for name in _BY_OBJECT:
            for number in gone:
                getattr(session, name).pop(number, None)
        for pair in [each for each in session.overlap_pair_to_frame_inds if gone & set(each)]:
            del session.overlap_pair_to_frame_inds[pair]
        gone.clear()
        for frames in session.unmatched_frame_inds.values():
            del frames[: -max(model.hotstart_unmatch_thresh, 1)]
        for frames in session.overlap_pair_to_frame_inds.values():
            del frames[: -max(model.hotstart_dup_thresh, 1)]

"""The objects of a video that texts describe: found and tracked by SAM3's video model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from mataserver import InvalidParams
from mataserver_sam.frame_object import FrameObject, resolve_overlaps
from mataserver_sam.masks import resize_to_mask
from mataserver_sam.memory_pruning import (
    NO_FRAMES,
    forget_bare,
    prune_conditioning,
    select_with_memory,
)
from mataserver_sam.prompt_decoder import finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_sam.encoded_frame import FrameFeatures
    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network
    from mataserver_sam.weights import Weights

MAX_TEXTS = 64
"""How many texts one session looks for: each is a pass of the detector on every frame."""

_BY_OBJECT = (
    "obj_first_frame_idx",
    "unmatched_frame_inds",
    "trk_keep_alive",
    "obj_id_to_score",
    "obj_id_to_prompt_id",
)


class TextSession(Sam3VideoInferenceSession):
    """A session that removes objects after a frame is finished.

    ``Sam3VideoModel`` removes them while it still pairs masks with ``obj_ids``: those behind a
    removed object would get the mask and the score of their neighbour.
    """

    def __init__(self, **chosen: Any) -> None:
        super().__init__(**chosen)
        self._to_remove: list[int] = []

    def remove_object(self, obj_id: int, strict: bool = False) -> None:  # noqa: ARG002 - the base's signature
        """Mark an object for removal."""
        self._to_remove.append(obj_id)

    def remove_marked(self) -> set[int]:
        """Remove the marked objects; return their numbers."""
        left = set(self._to_remove)
        for number in self._to_remove:
            self.obj_ids = list(self._obj_id_to_idx)
            super().remove_object(number)
        self._to_remove.clear()
        return left


class TextTracks:
    """All objects that texts describe in one video.

    Objects are numbered from 0, in the order they are found.
    """

    def __init__(
        self, weights: Weights, network: Network, footage: Footage, features: FrameFeatures
    ) -> None:
        self._weights = weights
        self._model = weights.video
        self._size = footage.size
        self.session = network.new_session(TextSession, footage.size)
        self.session.processed_frames = footage
        self.session.cache = features
        self._pruner = network.pruner
        select_with_memory(self._model.tracker_model)
        self.logits: dict[int, torch.Tensor] = {}
        """Of the objects on the last frame, ``[h, w]`` by number; removed ones among them."""
        self._scores: dict[int, float] = {}
        self._hidden: set[int] = set()
        self._last: list[FrameObject] = []
        self._frame = -1

    def add(self, texts: Sequence[str]) -> set[int]:
        """Search for ``texts`` from the next step on; return the numbers of the texts.

        Texts that are the same to the network, such as in another case, have one number: each would
        find the same objects once more. Raises ``InvalidParams`` when one is too long, or there are
        too many; then none is added.
        """
        session, tokens = self.session, self._weights.tokens(list(texts))
        known = {_key(ids): number for number, ids in session.prompt_input_ids.items()}
        keys = [_key(ids) for ids in tokens["input_ids"]]
        if len({*known, *keys}) > MAX_TEXTS:
            raise InvalidParams(f"a session looks for at most {MAX_TEXTS} texts: reset it first")
        for row, (text, key) in enumerate(zip(texts, keys, strict=True)):
            if key not in known:
                number = known[key] = session.add_prompt(text)
                session.prompt_input_ids[number] = tokens["input_ids"][row : row + 1]
                session.prompt_attention_masks[number] = tokens["attention_mask"][row : row + 1]
        self._frame = -1
        return {known[key] for key in keys}

    @property
    def numbers(self) -> list[int]:
        """The objects that are tracked and not hidden."""
        return [number for number in self.session.obj_ids if number not in self._hidden]

    def hide(self, number: int) -> None:
        """Hide an object. It is still tracked, or else the detector would find it again."""
        self._hidden.add(number)
        self._last = self._visible_objects()

    def text_of(self, number: int) -> int:
        """Return the number of the text that found an object."""
        found: int = self.session.obj_id_to_prompt_id[number]
        return found

    def step(
        self, frame: int, *, reverse: bool = False, pinned: range = NO_FRAMES
    ) -> list[FrameObject]:
        """Track every object to ``frame`` and search for new ones; return the visible ones.

        Memories that a later step back from the start of ``pinned`` needs are kept. The frame of
        the last step is not run again.
        """
        if frame == self._frame:
            return self._last
        session = self.session
        for outputs in session.output_dict_per_obj.values():
            self._pruner.prepare_step(outputs, frame, reverse=reverse)
            forget_bare(outputs["cond_frame_outputs"], frame)
        found = self._model(session, frame_idx=frame, reverse=reverse)
        unseen = session.remove_marked() | set(found.suppressed_obj_ids or ())
        self._scores = dict(found.obj_id_to_tracker_score)
        masks = {number: mask[0] for number, mask in found.obj_id_to_mask.items()}
        self.logits = {number: masks[number] for number in sorted(masks) if number not in unseen}
        self._prune(frame, pinned)
        self._last = self._visible_objects()
        self._frame = frame
        return self._last

    def logits_on(self, number: int, frame: int) -> torch.Tensor | None:
        """Return the logits ``[h, w]`` of an object on a frame; None where it is not visible."""
        self.step(frame)
        return self.logits.get(number)

    def tensors(self) -> list[Any]:
        """Return the objects that hold tensors, for ``held_bytes``."""
        return [vars(self.session), self.logits]

    def _visible_objects(self) -> list[FrameObject]:
        """Return the visible objects; like the model's processor, resolve overlaps per text.

        A hidden object keeps its pixels, so that an object that it covers, maybe its duplicate,
        does not appear.
        """
        if not self.logits:
            return []
        planes = finite(torch.stack(list(self.logits.values()))).cpu().numpy()
        groups: dict[int, list[FrameObject]] = {}
        for number, plane in zip(self.logits, planes, strict=True):
            score = float(self._scores.get(number, 0.0))
            seen = FrameObject(number, score, resize_to_mask(plane, self._size))
            groups.setdefault(self.text_of(number), []).append(seen)
        visible = [each for group in groups.values() for each in resolve_overlaps(group)]
        shown = [each for each in visible if each.number not in self._hidden]
        return sorted(shown, key=lambda each: each.number)

    def _prune(self, frame: int, pinned: range) -> None:
        """Drop what no later frame needs; transformers would copy all of it for every frame."""
        session = self.session
        selected = self._model.tracker_model.config.max_cond_frame_num
        for index, outputs in session.output_dict_per_obj.items():
            self._pruner.prune(outputs, frame, pinned)
            prune_conditioning(outputs["cond_frame_outputs"], frame, selected, pinned)
            session.mask_inputs_per_obj[index].clear()
            session.frames_tracked_per_obj[index].clear()
        for by_frame in (session.obj_id_to_tracker_score_frame_wise, session.suppressed_obj_ids):
            for number in [each for each in by_frame if each != frame]:
                del by_frame[number]
        self._prune_removed()

    def _prune_removed(self) -> None:
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


def _key(ids: torch.Tensor) -> tuple[int, ...]:
    """Return the tokens of a text as a key."""
    return tuple(ids.flatten().tolist())

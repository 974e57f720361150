"""One object of a video, prompted by points or a box, tracked by the tracker of SAM 2 or 3.

Each object has its own session: the tracker runs objects one after the other anyway, and so they
can be added, removed and corrected independently. They share the frames and their features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mataserver import InvalidParams
from mataserver_sam.frame_object import FrameObject
from mataserver_sam.masks import resize_to_mask
from mataserver_sam.memory_pruning import NO_FRAMES
from mataserver_sam.prompt_decoder import finite
from mataserver_sam.prompts import check_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_sam.encoded_frame import FrameFeatures
    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network

MAX_PROMPTED_FRAMES = 64
"""The maximum prompted frames of one object: each is kept for the object's lifetime."""

_OBJECT_ID = 1
_CORNERS = [2, 3]
"""The labels of a box's corners among the points."""

_FORWARD, _BACKWARD = 1, 2


class ObjectTrack:
    """One object. Coordinates are relative to the frame: 0 to 1 from the upper left corner."""

    def __init__(self, network: Network, footage: Footage, features: FrameFeatures) -> None:
        self._side = network.prepare.side
        self._model = network.tracker
        self._size = footage.size
        self._session = session = network.new_session(network.session, footage.size)
        session.processed_frames = footage
        session.cache = features
        self._index: int = session.obj_id_to_idx(_OBJECT_ID)
        self._outputs = session.output_dict_per_obj[self._index]
        self._pruner = network.pruner
        self._visited = bytearray(len(footage))
        self.logits = torch.empty(0)
        """Of the object on the last frame, ``[h, w]``."""

    def prompt(
        self,
        frame: int,
        corners: Sequence[Sequence[float]],
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
    ) -> FrameObject:
        """Prompt a new object or correct it on ``frame``.

        ``corners`` are the two of a box, or none; a box replaces the prompts of that frame.
        ``labels`` of the points are 1 on the object, 0 beside it. On a frame that was tracked
        before, and on one that has a prompt already, the object is corrected with the memory of
        other frames, and the frame is kept from then on.
        """
        self._check_prompted_frames(frame)
        session, places = self._session, [*corners, *points]
        marks = [*(_CORNERS if corners else []), *labels]
        given = {
            "point_coords": torch.tensor(places, dtype=torch.float32)[None, None] * self._side,
            "point_labels": torch.tensor(marks, dtype=torch.int32)[None, None],
        }
        before = session.point_inputs_per_obj[self._index].get(frame)
        if before is not None and not corners:
            given = {
                name: torch.cat([before[name].cpu(), each], dim=2) for name, each in given.items()
            }
        check_points(int((given["point_labels"] < _CORNERS[0]).sum()), "prompts")
        session.add_point_inputs(self._index, frame, given)
        session.remove_mask_inputs(self._index, frame)
        return self._run_prompt(frame)

    def seed(self, frame: int, logits: torch.Tensor) -> FrameObject:
        """Begin with a mask ``[h, w]`` on ``frame``, true where ``logits`` are positive.

        Later prompts on that frame correct the mask.
        """
        self._session.add_mask_inputs(self._index, frame, (logits > 0)[None, None])
        seen = self._run_prompt(frame)
        self._visited[frame] = _FORWARD
        return seen

    def step(self, frame: int, *, reverse: bool = False, pinned: range = NO_FRAMES) -> FrameObject:
        """Track the object to ``frame``."""
        self._pruner.prepare_step(self._outputs, frame, reverse=reverse)
        seen = self._run(frame, reverse=reverse)
        if frame not in self._outputs["cond_frame_outputs"]:
            self._visited[frame] = _BACKWARD if reverse else _FORWARD
        self._pruner.prune(self._outputs, frame, pinned)
        return seen

    def tensors(self) -> list[Any]:
        """Return the objects that hold tensors, for ``held_bytes``."""
        return [vars(self._session)]

    def _run_prompt(self, frame: int) -> FrameObject:
        """Run on new prompts; the frame becomes a conditioning frame, tracked before or not."""
        session, visited = self._session, self._visited[frame]
        reverse = visited == _BACKWARD
        if visited:
            session.frames_tracked_per_obj[self._index][frame] = {"reverse": reverse}
        session.obj_with_new_inputs = [_OBJECT_ID]
        self._pruner.prepare_step(self._outputs, frame, reverse=reverse)
        seen = self._run(frame, reverse=reverse)
        corrected = self._outputs["non_cond_frame_outputs"].pop(frame, {})
        prompted = self._outputs["cond_frame_outputs"]
        # A frame that had a prompt before has its memory in that prompt's output.
        prompted[frame] = {**prompted.get(frame, {}), **corrected}
        self._pruner.prune(self._outputs, frame)
        return seen

    def _run(self, frame: int, *, reverse: bool) -> FrameObject:
        found = self._model(self._session, frame_idx=frame, reverse=reverse)
        self._session.frames_tracked_per_obj[self._index].clear()
        score = float(finite(found.object_score_logits).sigmoid().item())
        self.logits = finite(found.pred_masks)[0, 0]
        return FrameObject(_OBJECT_ID, score, resize_to_mask(self.logits.cpu().numpy(), self._size))

    def _check_prompted_frames(self, frame: int) -> None:
        prompted = self._outputs["cond_frame_outputs"]
        if frame not in prompted and len(prompted) >= MAX_PROMPTED_FRAMES:
            raise InvalidParams(
                f"obj_id: the object has prompts on {MAX_PROMPTED_FRAMES} frames already"
            )

"""One object of a video that points or a box show, tracked by the tracker of SAM 2 or 3.

Each object has a session of its own: the tracker runs objects one after the other anyway, and so
they can come, go and be corrected without each other. They share the frames and their features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mataserver import InvalidParams
from mataserver_sam.clicks import finite
from mataserver_sam.forgetting import NOWHERE
from mataserver_sam.masks import stretched
from mataserver_sam.sighting import Sighting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_sam.encoded_frame import Features
    from mataserver_sam.footage import Footage
    from mataserver_sam.network import Network

MAX_PROMPTED_FRAMES = 64
"""Frames of one object that may have prompts: each is remembered for as long as the object is."""

_NUMBER = 1
_CORNERS = [2, 3]
"""The labels of a box's corners among the points."""

_FORWARD, _BACKWARD = 1, 2


class ObjectTrack:
    """One object. Coordinates are relative to the frame: 0 to 1 from the upper left corner."""

    def __init__(self, network: Network, footage: Footage, features: Features) -> None:
        self._side = network.prepare.side
        self._model = network.tracker
        self._size = footage.size
        self._session = session = network.session_of(network.session, footage.size)
        session.processed_frames = footage
        session.cache = features
        self._index: int = session.obj_id_to_idx(_NUMBER)
        self._outputs = session.output_dict_per_obj[self._index]
        self._reach = network.reach
        self._visited = bytearray(len(footage))
        self.logits = torch.empty(0)
        """Of the object on the last frame, ``[h, w]``."""

    def prompt(
        self,
        frame: int,
        corners: Sequence[Sequence[float]],
        points: Sequence[Sequence[float]],
        labels: Sequence[int],
    ) -> Sighting:
        """Show or correct the object on ``frame``.

        ``corners`` are the two of a box, or none; a box replaces what was prompted on that frame.
        ``labels`` of the points are 1 on the object, 0 beside it. On a frame that was tracked
        before, and on one that has a prompt already, the object is corrected with the memory of
        other frames, and the frame is remembered from then on.
        """
        self._check_room(frame)
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
        session.add_point_inputs(self._index, frame, given)
        session.remove_mask_inputs(self._index, frame)
        return self._prompted(frame)

    def seed(self, frame: int, logits: torch.Tensor) -> Sighting:
        """Begin with a mask ``[h, w]`` on ``frame``, true where ``logits`` are positive.

        What is prompted on that frame afterwards corrects the mask.
        """
        self._session.add_mask_inputs(self._index, frame, (logits > 0)[None, None])
        seen = self._prompted(frame)
        self._visited[frame] = _FORWARD
        return seen

    def step(self, frame: int, *, reverse: bool = False, pinned: range = NOWHERE) -> Sighting:
        """Track the object to ``frame``."""
        self._reach.arrive(self._outputs, frame, reverse=reverse)
        seen = self._run(frame, reverse=reverse)
        if frame not in self._outputs["cond_frame_outputs"]:
            self._visited[frame] = _BACKWARD if reverse else _FORWARD
        self._reach.leave(self._outputs, frame, pinned)
        return seen

    def tensors(self) -> list[Any]:
        """Return what holds memory, for ``held_bytes``."""
        return [vars(self._session)]

    def _prompted(self, frame: int) -> Sighting:
        """Run on new prompts; the answer is remembered like the first, whatever came before."""
        session, visited = self._session, self._visited[frame]
        reverse = visited == _BACKWARD
        if visited:
            session.frames_tracked_per_obj[self._index][frame] = {"reverse": reverse}
        session.obj_with_new_inputs = [_NUMBER]
        self._reach.arrive(self._outputs, frame, reverse=reverse)
        seen = self._run(frame, reverse=reverse)
        corrected = self._outputs["non_cond_frame_outputs"].pop(frame, {})
        prompted = self._outputs["cond_frame_outputs"]
        # The memory of a frame that had a prompt before is stored with the answer to that one.
        prompted[frame] = {**prompted.get(frame, {}), **corrected}
        self._reach.leave(self._outputs, frame)
        return seen

    def _run(self, frame: int, *, reverse: bool) -> Sighting:
        found = self._model(self._session, frame_idx=frame, reverse=reverse)
        self._session.frames_tracked_per_obj[self._index].clear()
        score = float(finite(found.object_score_logits).sigmoid().item())
        self.logits = finite(found.pred_masks)[0, 0]
        return Sighting(_NUMBER, score, stretched(self.logits.cpu().numpy(), self._size))

    def _check_room(self, frame: int) -> None:
        prompted = self._outputs["cond_frame_outputs"]
        if frame not in prompted and len(prompted) >= MAX_PROMPTED_FRAMES:
            raise InvalidParams(
                f"obj_id: the object has prompts on {MAX_PROMPTED_FRAMES} frames already"
            )

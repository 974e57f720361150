"""Prunes a tracker's memories of past frames, and measures the memory that it holds.

transformers keeps for each object and frame the mask in full size and every memory: 6.4 MB in
float32, without end. A tracker only uses the memories of the few frames before, the object pointers
of some more, and prompted frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    Outputs = dict[int, dict[str, Any]]

_MEMORY = ("maskmem_features", "maskmem_pos_enc")
_UNUSED = ("high_res_masks", "pred_masks", "object_score_logits")
NO_FRAMES = range(0)


@dataclass(slots=True)
class MemoryPruner:
    """Drops a tracker's outputs beyond ``memories`` frames, and ``pointers`` for object pointers.

    The position encoding of memories is the same for every frame and object: one is kept.
    """

    memories: int
    pointers: int
    positions: dict[tuple[Any, ...], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tracker: Any) -> MemoryPruner:
        """Return the pruner of a ``Sam3TrackerVideoModel``."""
        return cls(tracker.num_maskmem - 1, tracker.config.max_object_pointers_in_encoder - 1)

    def prepare_step(self, outputs: dict[str, Outputs], frame: int, *, reverse: bool) -> None:
        """Prepare a step to ``frame``: drop the outputs in its range that have no memory."""
        passed = outputs["non_cond_frame_outputs"]
        for offset in range(1, self.memories + 1):
            number = frame + offset if reverse else frame - offset
            if number in passed and _MEMORY[0] not in passed[number]:
                del passed[number]

    def prune(self, outputs: dict[str, Outputs], frame: int, pinned: range = NO_FRAMES) -> None:
        """Drop what no step from ``frame`` on uses, nor one from the start of ``pinned``."""
        passed = outputs["non_cond_frame_outputs"]
        for number in list(passed):
            distance = abs(number - frame)
            if number in pinned:
                distance = min(distance, number - pinned.start)
            if distance > self.pointers:
                del passed[number]
            else:
                self._strip(passed[number], keep_memory=distance <= self.memories)
        for output in outputs["cond_frame_outputs"].values():
            if len(output) > 1:  # a bare pointer was compacted with the rest
                output.pop("high_res_masks", None)
                self._compact_output(output)

    def _strip(self, output: dict[str, Any], *, keep_memory: bool) -> None:
        for name in _UNUSED if keep_memory else (*_UNUSED, *_MEMORY):
            output.pop(name, None)
        self._compact_output(output)

    def _compact_output(self, output: dict[str, Any]) -> None:
        """Share the position encoding of an output, and copy views out of larger storages."""
        for name, tensor in output.items():
            if name == "maskmem_pos_enc":
                output[name] = self._position(tensor)
            elif isinstance(tensor, torch.Tensor):
                output[name] = _compact(tensor)

    def _position(self, tensor: torch.Tensor) -> torch.Tensor:
        key = (tensor.shape, tensor.dtype, tensor.device)
        if key not in self.positions:
            self.positions[key] = _compact(tensor)
        return self.positions[key]


def prune_conditioning(
    conditioning: Outputs, frame: int, selected: int, pinned: range = NO_FRAMES
) -> None:
    """Leave an object's conditioning frames their pointers, and few of them their memories.

    A step reads the pointers of all, and the memories of the ``selected`` nearest, at least one
    on either side. So the first keeps its memory, and as many on either side of ``frame`` and of
    the start of ``pinned``, where a step back begins.
    """
    kept = set(list(conditioning)[:1])
    for place in {frame, pinned.start} if pinned else {frame}:
        before = sorted(number for number in conditioning if number <= place)
        after = sorted(number for number in conditioning if number > place)
        kept |= {*before[-selected:], *after[:selected]}
    for number, output in conditioning.items():
        if number not in kept:
            for name in (*_UNUSED, *_MEMORY):
                output.pop(name, None)


def forget_bare(conditioning: Outputs, frame: int) -> None:
    """Forget a conditioning frame without memory that is run again: it has no result to repeat."""
    if frame in conditioning and _MEMORY[0] not in conditioning[frame]:
        del conditioning[frame]


def select_with_memory(tracker: Any) -> None:
    """Have a tracker select its conditioning frames among those that still have their memory."""
    select = type(tracker)._select_closest_cond_frames  # noqa: SLF001 - transformers has no other way

    def select_remembered(
        frame_idx: int, cond_frame_outputs: Outputs, max_cond_frame_num: int
    ) -> Any:
        remembered = {n: each for n, each in cond_frame_outputs.items() if _MEMORY[0] in each}
        return select(tracker, frame_idx, remembered, max_cond_frame_num)

    tracker._select_closest_cond_frames = select_remembered  # noqa: SLF001 - as above


def held_bytes(*things: Any, shared: Any = ()) -> dict[str, int]:
    """Return, by type of device, the bytes of the storages of all tensors in ``things``.

    A storage that several tensors view counts once, one of a tensor in ``shared`` not at all.
    """
    others = {tensor.untyped_storage().data_ptr() for tensor in _tensors(shared)}
    storages = {
        (tensor.device, storage.data_ptr()): storage.nbytes()
        for tensor in _tensors(things)
        for storage in [tensor.untyped_storage()]
        if storage.data_ptr() not in others
    }
    sums: dict[str, int] = {}
    for (device, _), size in storages.items():
        sums[device.type] = sums.get(device.type, 0) + size
    return sums


def _tensors(thing: Any) -> Iterator[torch.Tensor]:
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        yield from _tensors(list(thing.values()))
    elif isinstance(thing, (list, tuple, set)):
        for each in thing:
            yield from _tensors(each)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    whole: bool = tensor.untyped_storage().nbytes() <= tensor.nbytes
    return tensor if whole else tensor.clone()

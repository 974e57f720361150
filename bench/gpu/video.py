"""What SAM 3 remembers of a video: the device's memory by object and by frame, and frames a second.

Objects are shown by boxes and tracked from frame to frame as a session does it; the frames are made
here, so that no decoder is needed. Once a tracker's memory is full, a frame more must add next to
nothing, and an object more must cost what the one before it did.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import options

if TYPE_CHECKING:
    import torch

    from mataserver_sam.network import Network

OBJECTS = (1, 2, 4, 8)
FRAMES, FEW = 60, 24
SIZE = (1080, 1920)
MOST_A_FRAME = 0.05
"""MB that a frame may add per object once the memory is full."""
NEAR = 0.5
"""How far what an object adds may be from the others' mean, in parts of it."""
HERE = Path(__file__).resolve().parent


def checkpoints() -> Any:
    """Return the module that writes checkpoints of SAM: another plugin's has the same name."""
    places = (HERE / "tiny_sam.py", HERE.parents[1] / "plugins/sam/tests/tiny.py")
    spec = importlib.util.spec_from_file_location("tiny_sam", next(p for p in places if p.exists()))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_sam"] = module
    spec.loader.exec_module(module)
    return module


class Frames:
    """Frames by number, of noise: what trackers read of a video."""

    def __init__(self, network: Network, count: int) -> None:
        self._network = network
        self._count = count
        self.size = SIZE

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return a frame as ``[3, side, side]`` on the network's device."""
        import torch

        network, chance = self._network, torch.Generator().manual_seed(number)
        side = network.prepare.side
        noise = torch.rand((3, side, side), generator=chance) * 2 - 1
        return noise.to(network.device, network.dtype)


def held(network: Network, things: Any) -> float:
    """Return the MB of the device that lie behind tensors, those of the network aside."""
    from mataserver_sam.memory_pruning import held_bytes

    sums = held_bytes(things, shared=network.pruner.positions)
    return sums.get(network.device.type, 0) / 1e6


def allocated(network: Network) -> float:
    """Return the MB that torch has on the device; 0 where it does not count them."""
    import torch

    return torch.cuda.memory_allocated(network.device) / 1e6 if torch.cuda.is_available() else 0.0


def tracked(network: Network, objects: int, frames: int) -> dict[str, Any]:
    """Track so many objects; return MB after each frame, and seconds of each."""
    import torch

    from mataserver_sam.encoded_frame import FrameFeatures
    from mataserver_sam.object_track import ObjectTrack

    footage: Any = Frames(network, frames)
    features = FrameFeatures(network, footage)
    tracks = [ObjectTrack(network, footage, features) for _ in range(objects)]
    before, sizes, took = allocated(network), [], []
    with torch.inference_mode():
        for index, track in enumerate(tracks):
            left = 0.1 + 0.1 * index
            track.prompt(0, ((left, 0.3), (left + 0.1, 0.6)), (), ())
        for frame in range(1, frames):
            begun = time.perf_counter()
            for track in tracks:
                track.step(frame)
            took.append(time.perf_counter() - begun)
            sizes.append(held(network, [track.tensors() for track in tracks]))
    grown = allocated(network) - before
    middle = len(sizes) // 2
    return {
        "mb": round(sizes[-1], 3),
        "mb_a_frame_and_object": round(
            (sizes[-1] - sizes[middle]) / (len(sizes) - 1 - middle) / objects, 5
        ),
        "allocated_mb": round(grown, 1),
        "frames_a_second": round(1 / statistics.median(took), 2),
    }


def main() -> None:
    """Track one object and several."""
    asked, tiny = options.read(), checkpoints()

    from mataserver_sam.loading import load_sam3
    from mataserver_sam.network import Network

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sam3")
        (tiny.sam3 if asked.quick else tiny.sam3_large)(path)
        network = Network.of(load_sam3(path, asked.device, "auto"))
        frames = FEW if asked.quick else FRAMES
        told: dict[str, Any] = {}
        for count in OBJECTS:
            told[str(count)] = tracked(network, count, frames)
            print(json.dumps({"objects": told, "wrong": faults(told)}), flush=True)


def faults(told: dict[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    each = [one["mb"] / int(count) for count, one in told.items()]
    wrong = []
    if any(one["mb_a_frame_and_object"] > MOST_A_FRAME for one in told.values()):
        wrong.append("a frame more")
    if any(abs(one - statistics.mean(each)) > NEAR * statistics.mean(each) for one in each):
        wrong.append("an object more")
    return wrong


if __name__ == "__main__":
    main()

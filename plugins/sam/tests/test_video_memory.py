"""What a video session leaves behind: nothing, at once, without a garbage collection."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter

import msgspec
import psutil
import pytest

from mataserver import BadRequest
from mataserver_sam.frames import Clip
from mataserver_sam.limits import Limits
from mataserver_sam.settings import Settings
from mataserver_sam.video_requests import PromptRequest, PropagateRequest
from mataserver_sam.videos import Videos

pytestmark = pytest.mark.long

PROMPTS = {
    "nothing": [],
    "a text": [{"type": "text", "text": "red car"}],
    "a box": [{"type": "box", "box": [0.5, 0.5, 0.4, 0.4]}],
}


@contextlib.contextmanager
def uncollected():
    """Keep Python from collecting garbage: what is free then was freed by itself."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def living():
    """Count the objects of PyAV, torch, transformers and the plugin."""
    kinds = (type(each) for each in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith(("av.", "torch.", "mataserver_sam.")))


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_a_session_leaves_nothing(sam3_weights, video_path, prompts):
    """Of closed sessions no decoder, no thread, no frame and no tensor is left."""
    videos = Videos(sam3_weights, Settings())

    def one():
        videos.open("a", str(video_path))
        if prompts:
            asked = msgspec.convert({"frame_index": 0, "prompts": prompts}, PromptRequest)
            videos.prompt("a", asked)
            assert len(list(videos.propagate("a", PropagateRequest(max_frames=2)))) == 2
        videos.close("a")

    one()  # what is made once for the model
    with uncollected():
        before, threads = living(), psutil.Process().num_threads()
        for _ in range(3):
            one()
        assert living() - before == Counter()
        assert psutil.Process().num_threads() <= threads


def test_a_clip_that_is_refused_leaves_nothing(movies, tmp_path):
    """A video over a limit is closed though the one who prepares its frames refers to it."""
    path = movies.write(tmp_path / "a.mp4", 8)

    class Owner:
        def __init__(self, frames):
            self.clip = Clip(path, self.prepare, 1e6, Limits(frames=frames))

        def prepare(self, image):
            return image

    Owner(8).clip.close()
    with uncollected():
        before, threads = living(), psutil.Process().num_threads()
        for frames in (8, 7, 8, 7):
            with contextlib.suppress(BadRequest):
                owner = Owner(frames)
                owner.clip.frame(5)
                owner.clip.close()
                del owner
        assert living() - before == Counter()
        assert psutil.Process().num_threads() <= threads

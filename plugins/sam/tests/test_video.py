"""A video session without a server: objects, corrections, removal, and the memory it holds."""

from __future__ import annotations

import gc

import msgspec
import pytest
import torch

from mataserver import BadRequest, Conflict, InvalidParams, NotFound, Unavailable
from mataserver_sam.components import Kernels
from mataserver_sam.footage import Footage
from mataserver_sam.limits import Limits
from mataserver_sam.loading import load_sam1, load_sam2, load_sam3
from mataserver_sam.network import Network
from mataserver_sam.object_track import MAX_PROMPTED_FRAMES
from mataserver_sam.settings import Settings
from mataserver_sam.video import Video
from mataserver_sam.video_requests import PromptRequest, PropagateRequest
from mataserver_sam.videos import Videos

COUNT = 7
TEXT = {"type": "text", "text": "red car"}
BOX = {"type": "box", "box": (0.5, 0.5, 0.4, 0.4), "label": True}
POINT = {"type": "point", "points": [(0.2, 0.2)]}
BESIDE = {"type": "point", "points": [(0.9, 0.1)], "point_labels": [0]}


@pytest.fixture(scope="module")
def path(movies, tmp_path_factory):
    """A video of 7 frames."""
    return movies.write(tmp_path_factory.mktemp("video") / "moving.mp4", COUNT)


@pytest.fixture(scope="module")
def network(sam3_weights):
    """The tiny SAM3 as video sessions use it; a text finds at most two objects."""
    before, sam3_weights.video.max_num_objects = sam3_weights.video.max_num_objects, 2
    yield Network.of(sam3_weights)
    sam3_weights.video.max_num_objects = before


@pytest.fixture
def video(network, path):
    """``video()`` is a new session; all are closed at the end."""
    made = []

    def make(path=path, network=network, max_objects=8, cache=2e6):
        made.append(Video(network, Footage(path, network, cache, Limits()), max_objects))
        return made[-1]

    yield make
    for each in made:
        each.close()


def prompt(video, frame, *prompts, obj_id=None, **options):
    """Add prompts as a request does."""
    body = {"frame_index": frame, "prompts": prompts, "obj_id": obj_id, **options}
    return video.prompt(msgspec.convert(body, PromptRequest))


def walk(video, **asked):
    """Propagate; return the objects of each frame."""
    request = msgspec.convert(asked, PropagateRequest)
    return {
        step.frame_index: {each["id"]: each for each in msgspec.json.decode(step.objects)}
        for step in video.propagate(request)
    }


def test_objects_are_numbered_from_one(video):
    """Texts, boxes and points together: each object has a number, a mask, a box and a score."""
    session = video()
    given = prompt(session, 3, TEXT, BOX, POINT)
    assert (given.frame_index, given.status) == (3, "prompt_added")
    assert given.obj_id == [1, 2, 3] == session.objects
    assert len(given.masks) == len(given.boxes) == len(given.scores) == 3
    assert all(isinstance(mask, str) and mask for mask in given.masks)
    assert all(0 <= side <= 1 for box in given.boxes for side in box)
    assert all(0 < score < 1 for score in given.scores)
    assert prompt(session, 3, BOX).obj_id == [4]


def test_mixed_prompts_equal_separate_sessions(video):
    """A text, a box and points in one session are tracked as they are in one of their own each."""
    together = video()
    prompt(together, 2, TEXT, BOX, POINT)
    mixed = walk(together, start_frame_index=2)
    for number, each in enumerate((TEXT, BOX, POINT), 1):
        alone = video()
        prompt(alone, 2, each)
        for frame, seen in walk(alone, start_frame_index=2).items():
            own = {"id": number}
            mine = [{**one, **own} for name, one in seen.items() if name == 1]
            assert mine == [one for name, one in mixed[frame].items() if name == number]


def test_every_frame_once(video):
    """A propagation visits each frame once, and a second one begins where it is told."""
    session = video()
    prompt(session, 4, BOX)
    assert list(walk(session, start_frame_index=4)) == [4, 5, 6, 3, 2, 1, 0]
    again = walk(session, direction="backward", start_frame_index=5, max_frames=3)
    assert list(again) == [5, 4, 3]
    assert session.figures().frames_processed == COUNT


def test_sessions_that_take_turns_equal_sessions_alone(video):
    """Two propagations, frame by frame in turn on one model, give what each gives alone."""
    sessions = [video() for _ in range(4)]
    for session, each in zip(sessions, (TEXT, BOX, TEXT, BOX), strict=True):
        prompt(session, 0, each)
    request = PropagateRequest()
    turns = zip(sessions[0].propagate(request), sessions[1].propagate(request), strict=True)
    interleaved = [(one.objects, other.objects) for one, other in turns]
    alone = [[step.objects for step in each.propagate(request)] for each in sessions[2:]]
    assert interleaved == list(zip(*alone, strict=True))


def test_frames_are_computed_when_they_are_asked_for(video, network):
    """Nothing runs ahead: a propagation that is dropped after two frames has run two."""
    session = video()
    prompt(session, 0, BOX)
    steps = session.propagate(PropagateRequest())
    next(steps)
    next(steps)
    steps.close()
    assert session.figures().frames_processed == 2


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_removal_hides_and_nothing_else(video, direction):
    """An object that a text found is gone for good, and the others are as they were."""
    kept, cut = video(), video()
    for session in (kept, cut):
        prompt(session, 0, TEXT, BOX)
        walk(session, max_frames=4)
    number = cut.objects[0]
    cut.remove(number)
    assert number not in cut.objects
    whole, rest = (walk(each, direction=direction, start_frame_index=4) for each in (kept, cut))
    seen = 0
    for frame, objects in whole.items():
        assert rest[frame] == {name: each for name, each in objects.items() if name != number}
        seen += number in objects
    assert seen
    with pytest.raises(NotFound, match=f"Object {number} not found"):
        cut.remove(number)


def test_removal_of_a_shown_object(video):
    """An object that a box showed is dropped, with its memory."""
    session = video()
    prompt(session, 0, BOX, POINT)
    before = session.figures().total_bytes
    session.remove(1)
    assert session.objects == [2]
    assert session.figures().total_bytes < before
    assert all(1 not in seen for seen in walk(session).values())
    assert prompt(session, 0, BOX).obj_id == [3]


def test_a_correction_changes_the_object_alone(video):
    """Points with ``obj_id`` correct that object, there and afterwards; the others stay."""
    plain, session = video(), video()
    for each in (plain, session):
        prompt(each, 0, BOX, POINT)
    given = prompt(session, 0, BESIDE, obj_id=1)
    assert given.obj_id == [1]
    before, after = walk(plain), walk(session)
    assert [seen.get(2) for seen in before.values()] == [seen.get(2) for seen in after.values()]
    assert [seen.get(1) for seen in before.values()] != [seen.get(1) for seen in after.values()]


def test_a_box_corrects_too(video):
    """A box with ``obj_id`` replaces what was prompted on the frame."""
    session, fresh = video(), video()
    prompt(session, 0, POINT)
    moved = {"type": "point", "points": [(0.5, 0.5)], "box": (0.5, 0.5, 0.4, 0.4)}
    assert prompt(session, 0, moved, obj_id=1).scores == prompt(fresh, 0, moved).scores


def test_a_corrected_text_object_keeps_its_number(video):
    """What a text found can be corrected: it goes on under its number, and is not found twice."""
    plain, session = video(), video()
    for each in (plain, session):
        prompt(each, 0, TEXT)
        walk(each, max_frames=3)
    number = session.objects[0]
    given = prompt(session, 2, {"type": "point", "points": [(0.3, 0.3)]}, obj_id=number)
    assert given.obj_id == [number]
    assert session.objects == plain.objects
    before, after = (
        walk(each, direction="forward", start_frame_index=2) for each in (plain, session)
    )
    for frame, objects in before.items():
        others = {name: each for name, each in objects.items() if name != number}
        assert {name: each for name, each in after[frame].items() if name != number} == others
    assert any(before[frame].get(number) != after[frame].get(number) for frame in before)
    session.remove(number)
    assert number not in session.objects
    assert all(number not in seen for seen in walk(session).values())


def test_reset_begins_anew(video):
    """After a reset the session is as a new one on the same video."""
    session, fresh = video(), video()
    prompt(session, 4, TEXT, BOX)
    walk(session)
    session.remove(2)
    count = len(session.objects)
    assert session.reset() == count
    assert session.objects == []
    assert session.figures().frames_processed == 0
    with pytest.raises(BadRequest, match="no prompts"):
        walk(session)
    assert prompt(session, 0, TEXT) == prompt(fresh, 0, TEXT)
    assert walk(session) == walk(fresh)


REFUSED = {
    "a frame beyond the end": ((COUNT, [BOX], None), "frame_index: the video has 7 frames"),
    "a negative box": (
        (0, [TEXT, {**BOX, "label": False}], None),
        r"prompts\[1\]\.label: objects in a video",
    ),
    "points beside an object alone": ((0, [BESIDE], None), "a new object needs a point on it"),
    "too many objects": ((0, [BOX] * 9, None), "tracks at most 8 objects"),
    "a long text": (
        (0, [{"type": "text", "text": "x" * 99}], None),
        "prompts: a text is longer than the 32 tokens",
    ),
    "a text that corrects": ((0, [TEXT], 1), "points and at most one box correct an object"),
    "two boxes that correct": ((0, [BOX, BOX], 1), "at most one box"),
}


@pytest.mark.parametrize(("asked", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_prompted(video, asked, said):
    """A refused prompt says why, and leaves the session as it was."""
    session = video()
    prompt(session, 0, BOX)
    frame, prompts, obj_id = asked
    with pytest.raises(InvalidParams, match=said):
        prompt(session, frame, *prompts, obj_id=obj_id)
    assert session.objects == [1]
    assert prompt(session, 0, BOX).obj_id == [2]


def test_unknown_objects_are_not_corrected(video):
    """An object that never was, and one that is gone, are not found."""
    session = video()
    prompt(session, 0, BOX)
    session.remove(1)
    for number in (0, 1, 7):
        with pytest.raises(NotFound, match=f"Object {number} not found"):
            prompt(session, 0, POINT, obj_id=number)


def test_texts_end(video):
    """A session looks for 64 texts, in however many requests; known ones count once."""
    session = video()
    for some in range(0, 64, 32):
        prompt(
            session, 0, *({"type": "text", "text": f"{each}"} for each in range(some, some + 32))
        )
    with pytest.raises(InvalidParams, match="prompts: a session looks for at most 64 texts"):
        prompt(session, 0, {"type": "text", "text": "one more"})
    prompt(session, 1, {"type": "text", "text": "7"})
    session.reset()
    prompt(session, 0, {"type": "text", "text": "one more"})


def test_points_of_an_object_end(video):
    """A frame shows an object by 256 points, in one request or in several."""
    session = video()
    many = {"type": "point", "points": [[0.4, 0.4]] * 200}
    prompt(session, 0, many)
    before = walk(session, max_frames=1)
    for prompts in ([many], [many] * 2):
        with pytest.raises(InvalidParams, match="prompts: at most 256 points on one object"):
            prompt(session, 0, *prompts, obj_id=1)
    assert walk(session, max_frames=1) == before
    prompt(session, 1, many, obj_id=1)


def test_prompts_on_many_frames_end(video, movies, tmp_path):
    """An object remembers every frame with a prompt, so their number is limited."""
    session = video(movies.write(tmp_path / "long.mp4", MAX_PROMPTED_FRAMES + 1, "mpeg4"))
    prompt(session, 0, BOX)
    for frame in range(1, MAX_PROMPTED_FRAMES):
        prompt(session, frame, POINT, obj_id=1)
    with pytest.raises(InvalidParams, match="prompts on 64 frames already"):
        prompt(session, MAX_PROMPTED_FRAMES, POINT, obj_id=1)
    assert prompt(session, 0, BESIDE, obj_id=1).obj_id == [1]


@pytest.mark.parametrize("form", ["rle", "coco", "png", "polygon"])
def test_mask_formats(video, form):
    """Masks are told in the form that is asked for, by prompts and by propagations."""
    session = video()
    kind = {"rle": str, "coco": dict, "png": str, "polygon": list}[form]
    given = prompt(session, 0, TEXT, mask_format=form)
    assert [type(mask) for mask in given.masks] == [kind] * len(given.obj_id)
    seen = walk(session, mask_format=form, max_frames=2)[1]
    assert [type(each["mask"]) for each in seen.values()] == [kind] * len(seen)


@pytest.mark.parametrize(("asked", "count"), [(BOX, 200), (TEXT, 40)], ids=["box", "text"])
def test_memory_is_flat(video, movies, tmp_path, asked, count):
    """After the first frames no further one adds a byte, however far an object is tracked."""
    path = movies.write(tmp_path / "long.mp4", count, "mpeg4", options={"g": "12"})
    session = video(path, cache=1e6)
    prompt(session, 0, asked)
    sizes = [step.figures.total_bytes for step in session.propagate(PropagateRequest())]
    assert len(sizes) == count
    assert sizes[32] == sizes[-1] == max(sizes)


def tensor_bytes():
    """Return the bytes of every tensor of this process, each storage once.

    Those that another test has traced have a size and no memory: all are at address 0.
    """
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = [each.untyped_storage() for each in tensors]
    return sum({each.data_ptr(): each.nbytes() for each in storages if each.data_ptr()}.values())


def test_close_gives_the_memory_back(network, path):
    """When a session is closed every tensor that it made is gone."""
    for _ in range(2):  # what the first leaves are constants that transformers keeps for all
        before = tensor_bytes()
        session = Video(network, Footage(path, network, 2e6, Limits()), 8)
        prompt(session, 0, TEXT, BOX)
        walk(session, max_frames=6)
        held = session.figures().total_bytes
        assert tensor_bytes() - before > 0.85 * held > 400_000
        session.close()
        assert session.figures().total_bytes == 0
    assert tensor_bytes() == before


def test_half_precision(video, sam3_path):
    """Texts, boxes and points work in bfloat16, forward and backward."""
    half = Network.of(load_sam3(sam3_path, "cpu", "bfloat16"))
    session = video(network=half)
    given = prompt(session, 3, TEXT, BOX, POINT)
    assert given.obj_id == [1, 2, 3]
    seen = walk(session, start_frame_index=3, max_frames=4)
    assert list(seen) == [3, 4, 2, 1]
    assert all(0 <= each["score"] <= 1 for objects in seen.values() for each in objects.values())


def test_sam2_tracks_what_is_shown(video, sam2_path):
    """SAM 2 tracks boxes and points, and says that it understands no texts."""
    session = video(network=Network.of(load_sam2(sam2_path, "cpu", "float32")))
    assert prompt(session, 0, BOX, POINT).obj_id == [1, 2]
    assert list(walk(session)) == list(range(COUNT))
    with pytest.raises(InvalidParams, match="does not take text"):
        prompt(session, 0, TEXT)


def test_models_for_images_take_no_videos(sam1_path, path):
    """SAM 1 knows images only."""
    videos = Videos(load_sam1(sam1_path, "cpu", "float32"), Settings())
    with pytest.raises(Unavailable, match="images only"):
        videos.open("a", str(path))


def test_sessions_by_id(sam3_weights, path):
    """Sessions are opened, found and closed by id; an id that is in use or unknown is refused."""
    videos = Videos(sam3_weights, Settings())
    info = videos.open("a", str(path))
    assert (info.total_frames, info.resolution.width, info.resolution.height) == (COUNT, 80, 64)
    assert (info.fps, info.duration_seconds) == pytest.approx((10.0, 0.7))
    with pytest.raises(Conflict, match="Session a exists already"):
        videos.open("a", str(path))
    videos.prompt("a", msgspec.convert({"frame_index": 0, "prompts": [BOX]}, PromptRequest))
    held = videos.figures("a").total_bytes
    assert videos.close("a") == held
    for ask in (videos.close, videos.reset, videos.figures):
        with pytest.raises(NotFound, match="Session a not found"):
            ask("a")
    videos.open("b", str(path))
    videos.close_all()
    with pytest.raises(NotFound):
        videos.figures("b")


@pytest.mark.parametrize("gpus", [[0], [0, 1], [99]])
def test_gpus_that_are_not_here_are_refused(sam3_weights, path, gpus):
    """On a machine without them no GPU can be asked for."""
    videos = Videos(sam3_weights, Settings())
    with pytest.raises(InvalidParams, match="gpu_ids: "):
        videos.open("a", str(path), gpus)
    with pytest.raises(NotFound):
        videos.figures("a")


def test_kernels():
    """The stand-ins of the compiled kernels: components by area, and the best of each crowd."""
    mask = torch.zeros(2, 1, 6, 8, dtype=torch.uint8)
    mask[0, 0, :2, :3] = 1
    mask[0, 0, 3, 3] = mask[0, 0, 4, 4] = 1
    labels, areas = Kernels.cc_2d(mask)
    assert (labels.dtype, areas.dtype, labels.shape) == (torch.int32, torch.int32, mask.shape)
    assert areas[0, 0, 0, 0] == 6
    assert areas[0, 0, 3, 3] == areas[0, 0, 4, 4] == 2
    assert labels[0, 0, 0, 0] != labels[0, 0, 3, 3] == labels[0, 0, 4, 4]
    assert int((areas[0] > 0).sum()) == 8
    assert not labels[1].any()
    overlaps = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.6], [0.0, 0.6, 1.0]])
    kept = Kernels.generic_nms(overlaps, torch.tensor([0.5, 0.9, 0.4]), 0.5)
    assert kept.tolist() == [1]
    kept = Kernels.generic_nms(overlaps, torch.tensor([0.9, 0.5, 0.4]), 0.7)
    assert kept.tolist() == [0, 2]

"""Tracking against transformers' own loops, which keep every frame and every output for ever."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import (
    Sam3TrackerVideoInferenceSession,
)
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from mataserver_sam.encoded_frame import FrameFeatures
from mataserver_sam.footage import Footage
from mataserver_sam.frame_object import FrameObject, resolve_overlaps
from mataserver_sam.limits import Limits
from mataserver_sam.loading import load_sam2, load_sam3
from mataserver_sam.masks import Mask
from mataserver_sam.memory_pruning import held_bytes
from mataserver_sam.network import Network
from mataserver_sam.object_track import ObjectTrack
from mataserver_sam.text_tracks import TextSession, TextTracks

pytestmark = pytest.mark.long

COUNT, MIDDLE = 20, 3
FORWARD = [(frame, False) for frame in range(COUNT)]
BACKWARD = [(frame, True) for frame in range(COUNT - 1, -1, -1)]
BOTH = [
    *((frame, False) for frame in range(MIDDLE, COUNT)),
    *((frame, True) for frame in range(MIDDLE - 1, -1, -1)),
]
CONFIRMING = {"high_conf_thresh": -9.0, "high_iou_thresh": 0.0, "recondition_every_nth_frame": 4}
OFTEN = {**CONFIRMING, "recondition_every_nth_frame": 1, "min_trk_keep_alive": -9}
"""On each frame: more frames than a step selects, as a long video has with every 16th."""
LEAVING = {
    "hotstart_delay": 15,
    "hotstart_unmatch_thresh": 3,
    "hotstart_dup_thresh": 2,
    "new_det_thresh": 0.1,
    "max_num_objects": 5,
}
LOOPS = {
    "forward": (FORWARD, {}),
    "backward, confirmed by the detector": (BACKWARD, CONFIRMING),
    "both, confirmed by the detector": (BOTH, CONFIRMING),
    "forward, confirmed often": (FORWARD, OFTEN),
    "backward, confirmed often": (BACKWARD, OFTEN),
    "both, confirmed often": (BOTH, OFTEN),
}
TEXTS = ["red car"]


@pytest.fixture(scope="module")
def video(movies, tmp_path_factory):
    """A video that is longer than a tracker looks back."""
    return movies.write(tmp_path_factory.mktemp("video") / "moving.mp4", COUNT)


@pytest.fixture(scope="module")
def network(sam3_weights):
    """The tiny SAM3 as video sessions use it."""
    return Network.of(sam3_weights)


@pytest.fixture(scope="module")
def footage(video, network):
    """The frames of the video."""
    footage = Footage(video, network, 2e6, Limits())
    yield footage
    footage.clip.close()


@pytest.fixture(scope="module")
def pixels(footage):
    """Every frame at once, as transformers' sessions want them."""
    return torch.stack([footage[frame] for frame in range(COUNT)])


@pytest.fixture
def model(network):
    """The video model; ``model(knob=value)`` turns its knobs until the test ends."""
    video = network.texts.video
    before = {}

    def turned(**knobs):
        for name, value in knobs.items():
            before.setdefault(name, getattr(video, name))
            setattr(video, name, value)
        return video

    yield turned
    for name, value in before.items():
        setattr(video, name, value)


def reference_texts(weights, pixels, texts=TEXTS):
    """A session of transformers that looks for texts."""
    session = Sam3VideoInferenceSession(
        video=pixels, video_height=64, video_width=80, dtype=torch.float32
    )
    for text in texts:
        number, tokens = session.add_prompt(text), weights.tokens([text])
        session.prompt_input_ids[number] = tokens["input_ids"]
        session.prompt_attention_masks[number] = tokens["attention_mask"]
    return session


def our_texts(network, footage, texts=TEXTS):
    """The same, ours."""
    tracks = TextTracks(network.texts, network, footage, FrameFeatures(network, footage))
    tracks.add(texts)
    return tracks


@pytest.mark.parametrize(("order", "knobs"), LOOPS.values(), ids=LOOPS)
def test_texts_equal_the_unpruned_loop(network, footage, pixels, model, order, knobs):
    """Every logit of every object on every frame, forward, backward and both, with a tenth kept."""
    reference, ours = reference_texts(network.texts, pixels), our_texts(network, footage)
    pinned = range(MIDDLE, MIDDLE + 16) if order is BOTH else range(0)
    for frame, reverse in order:
        wanted = model(**knobs)(reference, frame_idx=frame, reverse=reverse)
        ours.step(frame, reverse=reverse, pinned=pinned)
        assert list(wanted.obj_id_to_mask) == list(ours.logits)
        for number, logits in ours.logits.items():
            assert torch.equal(wanted.obj_id_to_mask[number][0], logits), (frame, number)
    assert len(ours.logits) == 3
    kept, held = (held_bytes(each)["cpu"] for each in (ours.tensors(), vars(reference)))
    assert kept * 10 < held


@pytest.fixture
def processor(monkeypatch):
    """What transformers makes masks of logits with; only its boxes need torchvision."""
    module = importlib.import_module("transformers.models.sam3_video.processing_sam3_video")
    monkeypatch.setattr(module, "masks_to_boxes", lambda _: None, raising=False)
    return object.__new__(module.Sam3VideoProcessor)


def test_visible_texts_equal_the_processors(network, footage, pixels, model, processor):
    """Masks in the video's size, and who of overlapping objects is seen, are as transformers'."""
    reference, ours = reference_texts(network.texts, pixels), our_texts(network, footage)
    overlaps = 0
    for frame in range(6):
        found = model()(reference, frame_idx=frame)
        wanted = processor.postprocess_outputs(reference, found)
        masks = wanted["masks"].numpy()
        expected = {
            number: mask
            for number, mask in zip(wanted["object_ids"].tolist(), masks, strict=True)
            if mask.any()
        }
        seen = {each.number: each for each in ours.step(frame)}
        assert list(seen) == sorted(expected)
        for number, each in seen.items():
            assert np.mean(each.mask.full() != expected[number]) < 1e-3
            assert each.score == found.obj_id_to_tracker_score[number]
        overlaps += sum(bool((each > 0).any()) for each in ours.logits.values()) > len(seen)
    assert overlaps


def test_who_owns_a_pixel(processor):
    """Overlapping masks are cut as transformers cuts them; of equal scores the first wins."""
    random = np.random.default_rng(0)
    masks = random.random((5, 12, 16)) < 0.4
    masks[4] = False
    scores = [0.5, 0.9, 0.5, 0.2, 0.7]
    wanted = processor._apply_object_wise_non_overlapping_constraints(
        torch.from_numpy(masks)[:, None], torch.tensor(scores)[:, None], background_value=0
    )
    seen = [
        FrameObject(number, score, Mask.from_pixels(mask))
        for number, (score, mask) in enumerate(zip(scores, masks, strict=True))
    ]
    cut = {each.number: each.mask.full() for each in resolve_overlaps(seen)}
    assert sorted(cut) == [0, 1, 2, 3]
    for number, mask in cut.items():
        assert np.array_equal(mask, wanted[number, 0].numpy() > 0)
    assert sum(mask.astype(int) for mask in cut.values()).max() == 1


@pytest.mark.parametrize(
    ("kind", "paired"),
    [(Sam3VideoInferenceSession, {0: 0, 2: 1}), (TextSession, {0: 0, 1: 1, 2: 2})],
)
def test_objects_that_leave_do_not_shift_the_others(network, model, kind, paired):
    """When the model gives up an object, those behind it keep their own masks.

    In transformers' own session object 2 gets the mask of object 1 when that one is given up.
    """
    session = network.new_session(kind, (64, 80))
    for number in range(3):
        session.obj_id_to_idx(number)
    session.remove_object(1)
    masks = torch.arange(3.0)[:, None, None].expand(3, 32, 32)
    plan = {"new_det_out_inds": [], "new_det_obj_ids": []}
    found = model().build_outputs(session, {}, masks, plan)
    assert {number: int(mask.unique()) for number, mask in found.items()} == paired
    if kind is TextSession:
        assert session.remove_marked() == {1}
        assert session.obj_ids == [0, 2]
        assert set(session.output_dict_per_obj) == {0, 1}


def test_objects_that_leave_are_forgotten(network, footage, model):
    """Objects that the model gives up while it tracks leave nothing behind."""
    model(**LEAVING)
    tracks = our_texts(network, footage, ["blue", "x", "y"])
    tracks.step(0)
    assert tracks.numbers == [0, 1, 2, 3, 4]
    tracks.step(1)
    assert tracks.numbers == list(tracks.logits) == [0, 1, 3]
    session = tracks.session
    kept = (session.obj_first_frame_idx, session.trk_keep_alive, session.obj_id_to_score)
    assert all(set(each) <= {0, 1, 3} for each in kept)
    assert len(session.output_dict_per_obj) == 3


def test_bookkeeping_stays_small(network, footage, model):
    """Nothing of a session grows with the steps: no list, no dict, no tensor.

    A confirmed frame leaves its pointer, and few of them their memory.
    """
    model(**OFTEN)
    tracks = our_texts(network, footage)
    sizes = []
    for _ in range(3):
        for frame in range(COUNT):
            tracks.step(frame)
        sizes.append((held_bytes(tracks.tensors())["cpu"], _length(vars(tracks.session))))
    assert sizes[1] == sizes[2]
    bare = []
    for outputs in tracks.session.output_dict_per_obj.values():
        confirmed = outputs["cond_frame_outputs"].values()
        bare.append(sum(set(each) == {"object_pointer"} for each in confirmed))
        assert len(confirmed) - bare[-1] <= 9
    assert max(bare) > 9


def _length(thing):
    """Count the entries of nested containers."""
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, (list, tuple, set)):
        return len(thing) + sum(map(_length, thing))
    return 0


def reference_object(kind, pixels, side, frame, **prompt):
    """A session of transformers with one object, prompted as its processors do."""
    session = kind(video=pixels, video_height=64, video_width=80, dtype=torch.float32)
    prompted(session, side, frame, **prompt)
    return session


def prompted(session, side, frame, *, corners=(), points=(), labels=()):
    """Add prompts to a session of transformers."""
    index = session.obj_id_to_idx(1)
    places = torch.tensor([*corners, *points])[None, None] * side
    marks = torch.tensor([*([2, 3] if corners else []), *labels], dtype=torch.int32)[None, None]
    known = session.point_inputs_per_obj[index].get(frame)
    if known is not None and not corners:
        places = torch.cat([known["point_coords"], places], dim=2)
        marks = torch.cat([known["point_labels"], marks], dim=2)
    session.add_point_inputs(index, frame, {"point_coords": places, "point_labels": marks})
    session.obj_with_new_inputs = [1]


@pytest.fixture(scope="module", params=["sam3", "sam2"])
def kit(request, video):
    """Network, footage, frames, and transformers' model and session: of SAM3 and of SAM 2."""
    path = request.getfixturevalue(f"{request.param}_path")
    if request.param == "sam3":
        from transformers import Sam3TrackerVideoModel

        network = Network.of(load_sam3(path, "cpu", "float32"))
        model = Sam3TrackerVideoModel.from_pretrained(path).eval()
        kind = Sam3TrackerVideoInferenceSession
    else:
        network = Network.of(load_sam2(path, "cpu", "float32"))
        model, kind = network.tracker, Sam2VideoInferenceSession
    footage = Footage(video, network, 2e6, Limits())
    frames = torch.stack([footage[frame] for frame in range(COUNT)])
    yield network, footage, frames, model, kind
    footage.clip.close()


BOX = ((0.3, 0.2), (0.7, 0.8))
CASES = {
    "forward, a box": (FORWARD, {"corners": BOX, "points": (), "labels": ()}),
    "backward, points": (
        BACKWARD,
        {"corners": (), "points": [(0.4, 0.5), (0.1, 0.1)], "labels": [1, 0]},
    ),
    "both, box and point": (BOTH, {"corners": BOX, "points": [(0.5, 0.5)], "labels": [1]}),
}


@pytest.mark.parametrize(("order", "prompt"), CASES.values(), ids=CASES)
def test_objects_equal_the_unpruned_loop(kit, order, prompt):
    """Every mask and score of an object, in each direction, with a tenth of the memory kept."""
    network, footage, frames, model, kind = kit
    start = order[0][0]
    reference = reference_object(kind, frames, network.prepare.side, start, **prompt)
    model(reference, frame_idx=start)
    ours = ObjectTrack(network, footage, FrameFeatures(network, footage))
    ours.prompt(start, **prompt)
    pinned = range(MIDDLE, MIDDLE + 16) if order is BOTH else range(0)
    for frame, reverse in order:
        wanted = model(reference, frame_idx=frame, reverse=reverse)
        seen = ours.step(frame, reverse=reverse, pinned=pinned)
        assert torch.allclose(wanted.pred_masks[0, 0], ours.logits, atol=1e-4), frame
        assert seen.score == pytest.approx(wanted.object_score_logits.sigmoid().item(), abs=1e-5)
    kept = held_bytes(ours.tensors())["cpu"]
    assert kept * 10 < held_bytes(reference.output_dict_per_obj)["cpu"]


def test_corrections_equal_the_unpruned_loop(kit):
    """A second click on the first frame, and one on a frame that was tracked, change what follows.

    The second is remembered like the first: transformers would forget it with the next step.
    """
    network, footage, frames, model, kind = kit
    side = network.prepare.side
    reference = reference_object(kind, frames, side, 0, corners=BOX)
    ours = ObjectTrack(network, footage, FrameFeatures(network, footage))
    ours.prompt(0, BOX, (), ())
    model(reference, frame_idx=0)
    before = [ours.step(frame) and ours.logits for frame in range(8)]

    prompted(reference, side, 0, points=[(0.2, 0.2)], labels=[0])
    ours.prompt(0, (), [(0.2, 0.2)], [0])
    model(reference, frame_idx=0)
    after = [ours.step(frame) and ours.logits for frame in range(8)]
    for frame in range(8):
        wanted = model(reference, frame_idx=frame).pred_masks[0, 0]
        assert torch.allclose(wanted, after[frame], atol=1e-4)
    assert not torch.equal(before[0], after[0])

    prompted(reference, side, 5, points=[(0.8, 0.8)], labels=[1])
    wanted = model(reference, frame_idx=5).pred_masks[0, 0]
    ours.prompt(5, (), [(0.8, 0.8)], [1])
    assert torch.allclose(wanted, ours.logits, atol=1e-4)
    outputs = reference.output_dict_per_obj[0]
    outputs["cond_frame_outputs"][5] = outputs["non_cond_frame_outputs"].pop(5)
    for frame in (5, 6, 7, 8):
        wanted = model(reference, frame_idx=frame).pred_masks[0, 0]
        ours.step(frame)
        assert torch.allclose(wanted, ours.logits, atol=1e-4), frame


def test_one_encoding_serves_every_object(network, footage, model):
    """Texts, boxes and points of one frame share a run of the vision encoder."""
    video = model()
    runs = []
    hook = video.detector_model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    features = FrameFeatures(network, footage)
    texts = TextTracks(network.texts, network, footage, features)
    texts.add(["dog"])
    tracks = [ObjectTrack(network, footage, features) for _ in range(2)]
    with torch.inference_mode():
        for track in tracks:
            track.prompt(0, BOX, (), ())
        assert len(runs) == 1
        for frame in (1, 2):
            texts.step(frame)
            for track in tracks:
                track.step(frame)
    hook.remove()
    assert len(runs) == 3


def test_texts_that_are_the_same_to_the_network(network, footage):
    """A text in another case or with other spaces is not looked for twice: objects came twice."""
    texts = TextTracks(network.texts, network, footage, FrameFeatures(network, footage))
    assert texts.add(["red car"]) == texts.add([" Red  Car "]) == {0}
    assert texts.add(["dog", "DOG", "red car"]) == {0, 1}
    assert list(texts.session.prompts.values()) == ["red car", "dog"]

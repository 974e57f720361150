"""The tracker against the bare library, sessions apart from each other, and what is reported."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import supervision
from trackers import ByteTrackTracker

from mataserver import Detection, InvalidParams, Params
from mataserver_track.options import TrackParams

IMAGE = np.zeros((8, 8, 3), np.uint8)
OBJECTS = 12


def scenario(frames=120, seed=4):
    """Boxes that wander through each other, some weak and some missing, in any order."""
    chance = np.random.default_rng(seed)
    places = chance.uniform(0, 300, (OBJECTS, 2))
    speeds = chance.uniform(-4, 4, (OBJECTS, 2))
    made = []
    for _ in range(frames):
        places = places + speeds
        seen = chance.permutation(np.nonzero(chance.random(OBJECTS) > 0.15)[0])
        scores = np.where(chance.random(OBJECTS) < 0.2, 0.3, chance.uniform(0.72, 0.99, OBJECTS))
        made.append([found(f"object-{i}", scores[i], *places[i]) for i in seen])
    return made


def found(label, confidence, x, y, side=40.0):
    """A detection of a square."""
    return Detection(
        label, float(confidence), (float(x), float(y), float(x + side), float(y + side))
    )


def bare(frames, seconds=None, **options):
    """What the library alone makes of the frames: per frame, label to id."""
    tracker, answers = ByteTrackTracker(**options), []
    for number, frame in enumerate(frames):
        boxes = supervision.Detections(
            xyxy=np.array([each.bbox for each in frame]).reshape(-1, 4),
            confidence=np.array([each.confidence for each in frame]),
            data={"label": np.array([each.label for each in frame])},
        )
        tracked = tracker.update(boxes, timestamp=None if seconds is None else seconds[number])
        labels = tracked.data["label"] if len(tracked) else []
        answers.append(dict(zip(labels, tracked.tracker_id, strict=True)))
    return answers


def stepped(session, frames):
    """What a session reports: per frame, label to id."""
    return [
        {each.label: each.track_id for each in session.step(IMAGE).detections}
        for _ in range(frames)
    ]


def confirmed(answers):
    """The library's answers without what is no track, and with ids from 1."""
    return [{label: i + 1 for label, i in each.items() if i >= 0} for each in answers]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lost_track_buffer": 5, "minimum_consecutive_frames": 4},
        {"track_activation_threshold": 0.9, "high_conf_det_threshold": 0.8},
        {"minimum_iou_threshold": 0.5, "frame_rate": 10.0},
    ],
)
def test_ids_are_those_of_the_library(tracker, script, options):
    """With and without timestamps, and whatever is set, each box has the bare library's id + 1."""
    frames, as_given = scenario(), {**options, "weak_iou_threshold": 0.0}
    counted = tracker(script(frames), timing="frames", **as_given).session(TrackParams())
    assert stepped(counted, len(frames)) == confirmed(bare(frames, **options))
    steps = np.random.default_rng(1).choice([1, 1, 1, 2], len(frames))
    seconds = [float(each) for each in np.cumsum(steps) / 32]
    clock = iter(seconds)
    timed = tracker(script(frames), clock=lambda: next(clock), **as_given).session(TrackParams())
    expected = confirmed(bare(frames, seconds, **options))
    assert stepped(timed, len(frames)) == expected
    assert max(map(len, expected)) > OBJECTS / 2


def test_what_is_reported_is_the_detection(tracker, script):
    """Box, label and confidence are the detector's of this frame, in its order."""
    frames = scenario(30)
    session = tracker(script(frames)).session(TrackParams())
    for frame in frames:
        reported = session.step(IMAGE).detections
        plain = [Detection(each.label, each.confidence, each.bbox) for each in reported]
        assert plain == [each for each in frame if each in plain]
    assert len(plain) > OBJECTS / 2


def test_unconfirmed_detections_are_not_reported(tracker, script):
    """A track is reported from its second frame on; a box too weak to begin one, never."""
    frames = [[found("strong", 0.9, 0, 0), found("weak", 0.4, 100, 0)]] * 4
    session = tracker(script(frames)).session(TrackParams())
    assert stepped(session, 4) == [{}, {"strong": 1}, {"strong": 1}, {"strong": 1}]


def test_a_weak_box_continues_a_track(tracker, script):
    """A track whose object is half hidden goes on with the weak box, unless it is filtered out."""
    frames = [[found("one", each, 0, 0)] for each in (0.9, 0.9, 0.2, 0.2, 0.9)]
    session = tracker(script(frames)).session(TrackParams())
    assert stepped(session, 5) == [{}, *[{"one": 1}] * 4]
    session = tracker(script(frames)).session(TrackParams(confidence=0.5))
    assert stepped(session, 5) == [{}, {"one": 1}, {}, {}, {"one": 1}]


def test_a_missed_object_comes_back_under_its_id(tracker, script):
    """Within the buffer the id is the old one, after it a new one; missed frames report nothing."""
    seen = [found("one", 0.9, 0, 0)]
    for misses, back in ((5, {"one": 1}), (40, {})):
        frames = [seen, seen, *[[]] * misses, seen, seen]
        answers = stepped(tracker(script(frames)).session(TrackParams()), len(frames))
        assert answers[2:-2] == [{}] * misses
        assert answers[-2] == back
        assert answers[-1] == {"one": 1 if back else 2}


def test_frames_of_changing_size_keep_the_ids(tracker, script):
    """The same view at half, double and other sizes: objects keep their ids, boxes are the frame's.

    The server decodes a large JPEG at half its size and a PNG of the same size whole.
    """
    sizes = [(80, 160), (80, 160), (40, 80), (160, 320), (80, 160), (120, 120)]
    frames = []
    for number, (height, width) in enumerate(sizes):
        across, down = width / 160, height / 80
        boxes = [(20 + number, 10, 60 + number, 40), (100 - number, 30, 140 - number, 70)]
        frames.append(
            [
                Detection(name, 0.9, (x1 * across, y1 * down, x2 * across, y2 * down))
                for name, (x1, y1, x2, y2) in zip(("one", "two"), boxes, strict=True)
            ]
        )
    session = tracker(script(frames)).session(TrackParams())
    answers = [session.step(np.zeros((*size, 3), np.uint8)).detections for size in sizes]
    for frame, answer in zip(frames[1:], answers[1:], strict=True):
        assert {each.label: each.track_id for each in answer} == {"one": 1, "two": 2}
        assert [each.bbox for each in answer] == [each.bbox for each in frame]


def test_sessions_number_for_themselves(tracker, script):
    """Every session counts from 1, and one that has just begun knows nothing of the others."""
    model = tracker(script([[found("one", 0.9, 0, 0)]] * 8))
    first, second = model.session(TrackParams()), model.session(TrackParams())
    assert stepped(first, 4)[-1] == {"one": 1}
    assert stepped(second, 4) == [{}, *[{"one": 1}] * 3]


def test_interleaved_sessions_equal_sequential_ones(tracker, script):
    """Two streams that share a model, frame by frame in turn, get what each would get alone."""
    streams = [scenario(60, seed) for seed in (7, 8)]
    alone = [
        stepped(tracker(script(each), timing="frames").session(TrackParams()), 60)
        for each in streams
    ]
    turns = itertools.chain.from_iterable(zip(*streams, strict=True))
    model = tracker(script(list(turns)), timing="frames")
    sessions = [model.session(TrackParams()) for _ in streams]
    together = [[stepped(each, 1)[0] for each in sessions] for _ in range(60)]
    assert [list(each) for each in zip(*together, strict=True)] == alone
    assert alone[0] != alone[1]


def test_predict_is_a_fresh_tracker(tracker, script):
    """Each image alone: what begins a track has an id from 1, every time; the rest is absent."""
    frame = [
        found("weak", 0.3, 0, 0),
        found("one", 0.9, 60, 0),
        found("unsure", 0.65, 120, 0),
        found("two", 0.8, 180, 0),
    ]
    model = tracker(script([frame] * 3), minimum_consecutive_frames=9)
    results = [model.predict([IMAGE], [TrackParams()])[0] for _ in range(2)]
    ids = [{each.label: each.track_id for each in result.detections} for result in results]
    assert ids == [{"one": 1, "two": 2}] * 2
    [result] = model.predict([IMAGE], [TrackParams(confidence=0.85)])
    assert [each.label for each in result.detections] == ["one"]


def test_predict_takes_batches(tracker, blobs, colours):
    """The detector gets the whole batch, and each image has its own tracker and params."""
    left, empty = np.zeros((20, 40, 3), np.uint8), np.zeros((10, 10, 3), np.uint8)
    left[2:8, 2:8], left[2:8, 22:28] = colours["red"], colours["blue"]
    params = [TrackParams(), TrackParams(), TrackParams(classes=["blue"])]
    results = tracker(blobs()).predict([left, empty, left], params)
    ids = [{each.label: each.track_id for each in result.detections} for result in results]
    assert ids == [{"red": 1, "blue": 2}, {}, {"blue": 1}]


def test_an_empty_frame_is_answered(tracker, script):
    """Frames without detections have an empty list, from the first on."""
    session = tracker(script([[], [], []])).session(TrackParams())
    assert [session.step(IMAGE).detections for _ in range(2)] == [[], []]


def test_other_classes_are_kept_from_the_tracker(tracker, script):
    """The setting names the labels that are tracked, and a session's parameter replaces it."""
    frames = [[found("dog", 0.9, 0, 0), found("cat", 0.9, 100, 0)]] * 2
    for params, expected in (
        (TrackParams(), {"cat": 1}),
        (TrackParams(classes=["dog", "cat"]), {"dog": 1, "cat": 2}),
        (TrackParams(classes=["bird"]), {}),
    ):
        session = tracker(script(frames), classes=["cat"]).session(params)
        assert stepped(session, 2)[-1] == expected


@pytest.mark.parametrize("labels", [["dog", "cat"], {0: "dog", 1: "cat"}])
def test_a_class_that_the_detector_does_not_have_is_refused(tracker, script, labels):
    """A misspelt one would give an empty answer; without known labels any may be found."""
    detector = script([[found("dog", 0.9, 0, 0)]] * 6)
    wrong = TrackParams(classes=["dog", "catt"])
    for unknown in (None, "dog", [1, 2], len):
        detector.labels = unknown
        assert tracker(detector).predict([IMAGE], [wrong])[0].detections
    detector.labels = labels
    said = r"params.classes: the detector has no label 'catt'; it has dog, cat$"
    with pytest.raises(InvalidParams, match=said):
        tracker(detector).predict([IMAGE], [wrong])
    with pytest.raises(InvalidParams, match=said):
        tracker(detector).session(wrong)
    session = tracker(detector, classes=["bird", "dog"]).session(TrackParams())
    assert stepped(session, 2)[-1] == {"dog": 1}
    detector.labels = [f"class {number}" for number in range(99)]
    with pytest.raises(InvalidParams, match=r"it has class 0, .*class 9, …$"):
        tracker(detector).predict([IMAGE], [wrong])


def test_the_detector_is_asked_for_weak_boxes(tracker, script):
    """The detector's threshold is the setting's, whatever confidence the client wants to see."""
    detector = script([[], []])
    model = tracker(detector, detector_confidence=0.05)
    model.session(TrackParams(confidence=0.9)).step(IMAGE)
    model.predict([IMAGE], [TrackParams(confidence=0.9)])
    assert [each.confidence for each in detector.asked] == [0.05, 0.05]


class PromptParams(Params, frozen=True, kw_only=True):
    """A detector that has prompts, and no confidence."""

    prompts: list[str]


def test_prompts_reach_a_detector_that_has_them(tracker, script):
    """Prompts are handed on; a detector without them is not bothered; their lack is told."""
    detector = script([[], []])
    model = tracker(detector, params=PromptParams)
    model.session(TrackParams(prompts=["a cat"])).step(IMAGE)
    assert detector.asked == [PromptParams(prompts=["a cat"])]
    with pytest.raises(InvalidParams, match=r"params.prompts: field is required"):
        model.session(TrackParams()).step(IMAGE)
    tracker(script([[]])).session(TrackParams(prompts=["a cat"])).step(IMAGE)


def moving(seconds, speed=100.0):
    """A square that moves to the right, seen at those times."""
    return [[found("one", 0.9, speed * each, 0)] for each in seconds]


def test_dropped_frames_do_no_harm(tracker, script):
    """After a gap an object is where its speed says; counting frames would lose it there."""
    seconds = [*(each / 16 for each in range(16)), 1.9, 1.9625]
    for timing, expected in (("arrival", 1), ("frames", 2)):
        clock = iter(seconds)
        model = tracker(script(moving(seconds)), clock=lambda clock=clock: next(clock))
        session = model.session(TrackParams(timing=timing))
        assert stepped(session, len(seconds))[-1] == {"one": expected}


@pytest.mark.parametrize("pause", [1.0, 3.0, 100.0])
def test_a_slow_stream_is_tracked(tracker, script, pause):
    """However far apart the frames are, an object that stays is confirmed and keeps its id."""
    ticks = itertools.count()
    model = tracker(script([[found("one", 0.9, 0, 0)]] * 5), clock=lambda: next(ticks) * pause)
    assert stepped(model.session(TrackParams()), 5) == [{}, *[{"one": 1}] * 4]

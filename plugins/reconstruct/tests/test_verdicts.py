"""What became of each photograph, which scenes there are, and what the photographer is told."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mataserver_reconstruct import advice, chart, features, graph, submission
from mataserver_reconstruct.exif import Exif
from mataserver_reconstruct.graph import Graph, Pair
from mataserver_reconstruct.model import Model, View
from mataserver_reconstruct.photos import Photo
from mataserver_reconstruct.verdicts import judge

MEASURED = dict.fromkeys(features.NAMES, 0.0) | {"sharpness": 6.0}


def photo(name, **fields):
    """Return a photograph that can be read."""
    usual = {"path": name, "file": name, "digest": name, "exif": Exif(28.0, "Maker Model")}
    return Photo(**{"name": name, "measured": MEASURED, **usual, **fields})


def model(cluster, index, names):
    """Return a model that has placed photographs."""
    none = np.empty(0)
    views = [View(n, np.eye(3), np.zeros(3), np.eye(3), 0.0, (1, 1), none, none) for n in names]
    return Model(cluster, index, views, none.reshape(0, 3), none, none, none)


def linked(*groups, inliers=100, motion="CALIBRATED"):
    """Return the graph in which all of each group match."""
    files = [name for group in groups for name in group]
    pairs = [Pair(a, b, inliers, motion) for group in groups for a in group for b in group if a < b]
    return Graph(dict.fromkeys(files, 900), pairs)


def test_scenes_are_those_that_match():
    """Photographs that match one another, over whatever others, are one scene; the rest alone."""
    found = Graph(dict.fromkeys("abcdef", 500), [Pair("a", "c", 20, ""), Pair("c", "f", 20, "")])
    assert graph.clusters(found, "components") == [["a", "c", "f"], ["b"], ["d"], ["e"]]


def test_louvain_parts_scenes_with_a_look_alike():
    """Two scenes that a few pairs tie together are one by components; louvain parts them."""
    two = linked("abcdefgh", "ijklmnop")
    tied = Graph(two.keypoints, [*two.pairs, Pair("a", "i", 45, ""), Pair("b", "j", 30, "")])
    assert len(graph.clusters(tied, "components")) == 1
    assert [len(each) for each in graph.clusters(tied, "louvain")] == [8, 8]
    assert len(graph.clusters(linked("abcdefgh"), "louvain")) == 1


def test_a_model_on_top_of_itself_is_told_with_the_remedy():
    """Louvain is named where it would put the two photographs apart."""
    told = [advice.overlaid("m", ("a.jpg", "b.jpg"), separable=each) for each in (True, False)]
    assert all("m lies on top of itself: a.jpg and b.jpg should show" in each for each in told)
    assert ["cluster: louvain" in each for each in told] == [True, False]


def test_a_model_that_places_nothing_of_its_own_is_left_out():
    """Of models, the largest first, one counts that has a photograph which the others have not."""
    placed = [{"a", "b", "c", "d"}, {"c", "d", "e"}, {"b", "d", "e"}, {"f", "a"}]
    assert graph.adds_photos(placed) == [True, True, False, True]


def test_each_photograph_has_its_verdict():
    """Each is told as registered or with the reason, once, by its own name."""
    photos = [
        photo("a"),
        photo("b"),
        photo("c"),
        photo("d"),
        photo("lonely"),
        photo("bare", measured=MEASURED | {"sharpness": 1.0}),
        photo("dark", measured=MEASURED | {"dark_frac": 0.95}),
        photo("black", measured=MEASURED | {"dark_frac": 1.0, "sharpness": 0.0}),
        Photo(name="broken", path="broken", problem="it is truncated"),
    ]
    found = linked("abcd", ["lonely"], ["bare"], ["dark"], ["black"])
    found = Graph(found.keypoints | {"bare": 3, "dark": 0, "black": 0}, found.pairs)
    verdicts = judge(photos, found, [list("abcd")], [model(0, 0, "abc")])
    told = {verdict.photo.name: verdict for verdict in verdicts}
    assert [told[name].status for name in "abc"] == ["registered"] * 3
    assert told["d"].status == "not_in_model"
    assert "matches a best, in 100 places" in told["d"].reason
    assert told["d"].scene == "cluster0"
    assert told["lonely"].status == "no_verified_pair"
    assert "blurred" in told["bare"].reason
    assert all("too dark" in told[name].reason for name in ("dark", "black"))
    assert "truncated" in told["broken"].reason
    assert {told[n].scene for n in ("lonely", "bare", "dark", "broken")} == {"outliers"}


def test_worlds_of_one_scene_are_kept_apart():
    """Each model has its own world: a scene's second one has a name of its own in the CSV."""
    photos = [photo(name) for name in "abcdefg"]
    models = [model(0, 0, "abcd"), model(0, 1, "defg")]
    verdicts = judge(photos, linked("abcdefg"), [list("abcdefg")], models)
    scenes = [verdict.scene for verdict in verdicts]
    assert scenes == ["cluster0"] * 4 + ["cluster0_model1"] * 3


def test_the_csv_quotes_names():
    """A name with a comma or a quote is one field still."""
    verdicts = judge([photo('a, "b".jpg')], Graph({}, []), [], [])
    lines = submission.write(verdicts, "custom").splitlines()
    nan = ";".join(["nan"] * 9) + "," + ";".join(["nan"] * 3)
    assert lines[1] == f'custom,outliers,"a, ""b"".jpg",{nan}'
    with_id = submission.write(verdicts, "custom", image_id=True).splitlines()
    assert with_id[0].startswith("image_id,dataset,scene,image,")


@pytest.mark.parametrize(
    ("photos", "said"),
    [
        ([photo("a")], "1 photograph cannot give a model"),
        ([photo("a"), photo("b")], "2 photographs cannot"),
        ([photo(str(at)) for at in range(5)], "5 photographs are few"),
        ([photo(str(at), digest="same") for at in range(9)], "8 photographs stand in it more"),
        (
            [photo(str(at), measured=MEASURED | {"sharpness": 2.0}) for at in range(9)],
            "9 photographs are blurred or bare, which gives few details: 0, 1, 2, …",
        ),
        (
            [photo("a", measured=MEASURED | {"sharpness": 0.0, "dark_frac": 1.0}), photo("b")],
            "1 photograph is too dark, which gives few details: a.",
        ),
        ([photo(str(at), exif=Exif(20.0 + at, "x")) for at in range(9)], "come from 9 cameras"),
        ([photo(str(at), exif=Exif()) for at in range(9)], "EXIF is missing"),
        ([*(photo(str(at)) for at in range(9)), Photo(name="x", path="x")], "could not be read"),
        ([Photo(name="x", path="x")], "None of the photographs could be read"),
        (
            [photo(str(at), digest=str(at % 8)) for at in range(9)],
            "1 photograph stands in it more than once, and adds nothing",
        ),
        (
            [photo("a", measured=MEASURED | {"sharpness": 2.0}), photo("b")],
            "1 photograph is blurred or bare",
        ),
    ],
)
def test_what_is_seen_before(photos, said):
    """What the photographs alone tell is said in a sentence."""
    assert said in " ".join(advice.before(photos, "auto"))


def test_what_was_asked_for_is_not_advised():
    photos = [photo(str(at), exif=Exif()) for at in range(9)]
    assert "camera: single" in " ".join(advice.before(photos, "auto"))
    assert "camera: single" not in " ".join(advice.before(photos, "single"))


def test_one_camera_is_one_however_it_was_held():
    """Upright, across, and in another size: it is not told that these are several cameras."""
    sizes = [(640, 480), (480, 640), (320, 240)] * 3
    photos = [photo(str(at), width=w, height=h) for at, (w, h) in enumerate(sizes)]
    assert advice.before(photos, "auto") == []


def test_one_photograph_is_not_told_of_others():
    alone = linked("a")
    verdicts = judge([photo("a")], alone, [], [])
    assert advice.after(alone, [["a"]], verdicts) == []


@pytest.mark.parametrize("motion", ["PANORAMIC", "PLANAR_OR_PANORAMIC"])
def test_a_flat_thing_is_not_told_to_be_a_camera_that_turned(motion):
    """A homography fits both: nobody is told that a camera did not move that may have."""
    found = linked("abc", motion=motion)
    reason = judge([photo(name) for name in "abc"], found, [], [])[0].reason
    assert "what they share is flat, or the camera was turned and not moved" in reason


def test_a_camera_that_stood_still_is_told():
    """The background of a turned object is in the same place in each photograph."""
    found = linked("abc", motion="WATERMARK")
    reason = judge([photo(name) for name in "abc"], found, [], [])[0].reason
    assert reason.endswith("the same place in both, as if the camera stood still.")


@pytest.mark.parametrize(
    ("lenses", "focal", "told"),
    [
        ([0.9, 0.9, 0.1], 1.1, True),
        ([-0.9, -0.9], 1.1, True),
        ([0.3, 0.3], 1.1, False),
        ([0.9, 0.8], 1.1, False),
        ([3.0, 3.0], 33.0, False),
        ([200.0, 200.0], 33.0, True),
    ],
)
def test_a_shared_camera_that_no_lens_can_be_is_told(lenses, focal, told):
    """A photograph of its own camera may be odd, not a camera of several; a long lens is none."""
    given = model(0, 0, "abcdef"[: len(lenses)])
    matrix = np.diag([focal * 640, focal * 640, 1.0])
    views = [
        replace(view, distortion=lens, matrix=matrix, size=(640, 480))
        for view, lens in zip(given.views, lenses, strict=True)
    ]
    said = advice.bent([replace(given, views=views)])
    assert bool(said) == told
    assert all("camera: per_image" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("lenses", "exif", "told"),
    [
        ([59, 59, 59, 40], 36, "3 of its 4 photographs fit a lens of about 59 mm, and their EXIF"),
        ([40, 40, 40], 300, "lens of about 40 mm, and their EXIF tells 300 mm"),
        ([28, 28, 28], 36, ""),
        ([59, 40, 40, 40], 36, ""),  # one camera alone
        ([240, 240, 240], 120, ""),  # of long lenses less is sure
        ([116, 116, 116], 300, "lens of about 116 mm"),
        ([59, 59, 59], 0, ""),  # no EXIF
    ],
)
def test_a_lens_that_exif_contradicts_is_told(lenses, exif, told):
    """Either the EXIF is wrong, or the photographs were cropped, or the model is wrong."""
    given = model(0, 0, "abcd"[: len(lenses)])
    views = [
        replace(view, matrix=np.diag([lens / 36 * 640, lens / 36 * 640, 1]), size=(480, 640))
        for view, lens in zip(given.views, lenses, strict=True)
    ]
    photos = [photo(name, exif=Exif(exif)) for name in "abcd"]
    said = " ".join(advice.other_lenses([replace(given, views=views)], photos))
    assert told in said
    assert bool(said) == bool(told)


def test_good_photographs_need_no_advice():
    """Of photographs as they should be, nothing is said."""
    photos = [photo(name) for name in "abcdefghi"]
    found = linked("abcdefghi")
    verdicts = judge(photos, found, [list("abcdefghi")], [model(0, 0, "abcdefghi")])
    assert advice.before(photos, "auto") + advice.after(found, [list("abcdefghi")], verdicts) == []


@pytest.mark.parametrize(
    ("found", "models", "said"),
    [
        (linked("a", "b", "c"), [], "No two photographs overlap"),
        (
            Graph(dict.fromkeys("abc", 3), []),
            [],
            "0 of 3 photographs have enough details to be matched",
        ),
        (linked("abc", motion="PANORAMIC"), [], "turned on the spot"),
        (linked("abc"), [], "overlap, but too little"),
        (linked("abc", motion="WATERMARK"), [], "The camera stood still"),
        (linked("abcdefgh"), [model(0, 0, "abc")], "Only 3 of 8"),
        (linked("abc", "def"), [model(0, 0, "abc"), model(1, 0, "def")], "show 2 scenes"),
    ],
)
def test_what_is_seen_after(found, models, said):
    """What the models tell is said in a sentence."""
    scenes = graph.clusters(found, "components")
    verdicts = judge([photo(name) for name in found.keypoints], found, scenes, models)
    assert said in " ".join(advice.after(found, scenes, verdicts))


def told_after(found, models, how="components"):
    """Return what is said of models."""
    scenes = graph.clusters(found, how)
    verdicts = judge([photo(name) for name in found.keypoints], found, scenes, models)
    return " ".join(advice.after(found, scenes, verdicts))


def test_scenes_are_counted_that_have_a_model():
    """A scene without one is not told to have one."""
    found = linked("abcdefghi", "xyz")
    said = told_after(found, [model(0, 0, "abcdefghi")])
    assert "scenes" not in said
    assert "3 photographs found no place: x, y, z." in said


def test_scenes_that_louvain_parted_share_something():
    """It is not said that they share nothing."""
    two = linked("abcdefgh", "ijklmnop")
    tied = Graph(two.keypoints, [*two.pairs, Pair("a", "i", 45, ""), Pair("b", "j", 30, "")])
    models = [model(0, 0, "abcdefgh"), model(1, 0, "ijklmnop")]
    assert told_after(tied, models, "louvain") == (
        "The photographs were separated into 2 scenes; each has its own model."
    )
    assert "2 scenes that share nothing" in told_after(two, models)
    assert "some photographs are mirrored" in told_after(two, models)


def test_several_models_of_one_scene_are_told():
    """All photographs have a place, and yet not in one model: why, and what to do."""
    said = told_after(linked("abcdefgh"), [model(0, 0, "abcd"), model(0, 1, "efgh")])
    assert said == (
        "The 2 models are of 1 scene: too little connects the parts of a scene to be one model. "
        "Take photographs in between."
    )


def test_the_chart_shows_each_photograph_and_pair():
    """Names are escaped; each photograph is a dot and each pair a line."""
    found = linked(["<a>", "b"])
    verdicts = judge([photo("<a>"), photo("b"), photo("c")], found, [], [])
    picture = chart.svg(verdicts, found.pairs)
    assert (picture.count("<circle"), picture.count("<line")) == (3, 1)
    assert "&lt;a&gt;" in picture
    assert "<a>" not in picture


def test_the_chart_is_no_higher_than_its_dots():
    """Three photographs on the circle leave no empty band below them."""
    verdicts = judge([photo("a"), photo("b"), photo("c")], linked(["a", "b"]), [], [])
    picture = chart.svg(verdicts, [])
    _, top, _, height = map(float, re.findall(r'viewBox="([^"]+)"', picture)[0].split())
    dots = [float(y) for y in re.findall(r'cy="([^"]+)" r="13"', picture)]
    assert min(dots) - 13 >= top
    assert max(dots) + 13 <= top + height
    assert height < max(dots) - min(dots) + 50

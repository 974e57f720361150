"""What a matcher needs, and whole reconstructions by one that is planted and knows the truth."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path

import numpy as np
import planted_scene
import pytest
from serving_reconstruct import asking, packed
from test_reconstruct import errors

from mataserver import InvalidParams, Unavailable
from mataserver_reconstruct import matchers, weights
from mataserver_reconstruct.weights import Checkpoint, DetectorAndMatcher, ExternalProgram, Matchers

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
PLANTED = str(Path(planted_scene.__file__))
ASKED = {"matcher": "mast3r", "max_size": 640}


NOTHING = """import sys, json, numpy as np
order = json.load(open(sys.argv[-1]))
for pair in order["pairs"]:
    file, none = order["output"] + "/" + pair["file"], np.empty((0, 2))
    np.savez(file, first=none, second=none, score=np.empty(0))
"""


def program(code, *more):
    """Return settings with a program."""
    command = [sys.executable, "-c", code, *more]
    return {"mast3r": {"command": command, "licence_acknowledged": True}}


def knowing(truth, *more):
    """Return settings with a program that knows the truth."""
    command = [sys.executable, *more, PLANTED, str(truth)]
    return {"mast3r": {"command": command, "licence_acknowledged": True}}


@pytest.fixture(scope="module")
def matched(scene, reconstructed):
    """A whole reconstruction by that program: its folder, end and steps."""
    return reconstructed(scene.photos, settings=knowing(scene.truth), **ASKED)


def test_a_matcher_of_pairs_gives_a_model(scene, matched):
    """Places that a program finds in pairs become keypoints, tracks, poses and a cloud."""
    folder, end, steps = matched
    assert end.how == "done", end.why
    assert end.figures["n_registered"] == 6
    assert end.figures["n_points"] > 1_500
    assert errors(folder, scene.poses)[0].max() < 0.03
    told = [step.message for step in steps]
    assert "matches of 9 of 15 pairs" in told
    assert told.index("geometry of 15 of 15 pairs of photographs") > told.index(
        "matches of 15 of 15 pairs"
    )


def test_a_fusion_has_the_features_of_all(scene, matched, begin, tmp_path):
    """A fusion has the keypoints of each of its matchers, and one model of them."""
    asked = {**ASKED, "matcher": "fusion:sift,mast3r"}
    end = begin(scene.photos, tmp_path, settings=knowing(scene.truth), **asked).end()
    assert end.how == "done", end.why
    both, of_pairs = (
        np.array([image["keypoints"] for image in each.figures["images"]])
        for each in (end, matched[1])
    )
    own = begin(scene.photos, tmp_path / "sift", **{**ASKED, "matcher": "sift"})
    own.until("matching", 1.0)  # what it found is told at the end only, of which there is no need
    own.close()
    of_sift = keypoints(tmp_path / "sift" / "work" / "database.db")
    assert (of_sift > 100).all()
    assert (both == of_sift + of_pairs).all()
    assert errors(tmp_path, scene.poses)[0].max() < 0.03


def keypoints(file):
    """Return how many keypoints each photograph has in a database of COLMAP's, by their names."""
    with contextlib.closing(sqlite3.connect(file)) as opened:
        query = "SELECT rows FROM keypoints JOIN images USING (image_id) ORDER BY name"
        return np.array([count for (count,) in opened.execute(query)])


def test_a_photograph_that_no_pair_shows_has_no_pair(scene, begin, tmp_path):
    """Where features come of pairs, one without is not said to be blurred or bare."""
    own = program(NOTHING)
    end = begin(scene[0], tmp_path, settings=own, **ASKED).end()
    assert end.how == "done", end.why
    assert {image["status"] for image in end.figures["images"]} == {"no_verified_pair"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("print(1)", "does not hold what a matcher finds"),
        (
            """import sys, json, numpy as np
for p in json.load(open(sys.argv[-1]))["pairs"]:
    file = json.load(open(sys.argv[-1]))["output"] + "/" + p["file"]
    np.savez(file, first=np.ones((3, 2)), second=np.ones((2, 2)), score=np.ones(3))
""",
            "matches of another shape",
        ),
    ],
)
def test_a_program_that_fails_is_told(code, why, scene, begin, tmp_path):
    """A program that ends badly, or writes what is no match, fails the job with a sentence."""
    own = program(code)
    end = begin(scene[0], tmp_path, settings=own, **ASKED).end()
    assert end.how == "refused"
    assert why in end.why


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_program_ends_with_its_job(how, scene, begin, tmp_path):
    """A job that is stopped, or killed as kill -9 does, leaves no program behind."""
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(100)"
    own = program(code, str(tmp_path / "pid"))
    process = begin(scene[0], tmp_path / "out", settings=own, **ASKED)
    wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    number = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{number}").exists()
    process.process.send_signal(signal.SIGTERM if how == "stop" else signal.SIGKILL)
    if how == "stop":
        assert process.end().how == "stopped"
    wait(lambda: not alive(number))


def wait(true, seconds=60.0):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(number):
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def pairs(folder):
    """Return when each pair was matched, by its file."""
    found = folder / "work" / "found" / "mast3r"
    return {path.name: path.stat().st_mtime_ns for path in found.glob("*.jpg-*.npz")}


def test_what_is_matched_stays(scene, matched, begin, tmp_path):
    """An attempt that follows matches only the pairs that are left."""
    shutil.copytree(matched[0] / "work", tmp_path / "work")  # as killed in mid-matching
    for database in (tmp_path / "work").glob("*.db*"):
        database.unlink()
    whole = pairs(tmp_path)
    for name in sorted(whole)[6:]:
        (tmp_path / "work" / "found" / "mast3r" / name).unlink()
    before = pairs(tmp_path)
    process = begin(scene.photos, tmp_path, settings=knowing(scene.truth), **ASKED)
    process.until("matching", 0.95)
    process.close()
    assert pairs(tmp_path).keys() == whole.keys()
    assert before.items() <= pairs(tmp_path).items()
    told = [step.message for step in process.steps]
    assert "matches of 7 of 15 pairs" in told
    assert "matches of 6 of 15 pairs" not in told


def test_other_settings_begin_anew(scene, matched, begin, tmp_path):
    """What was found with other weights is not gone on with."""
    shutil.copytree(matched[0] / "work", tmp_path / "work")
    before = pairs(tmp_path)
    process = begin(scene.photos, tmp_path, settings=knowing(scene.truth, "-B"), **ASKED)
    process.until("matching", 0.1)
    process.close()
    anew = pairs(tmp_path)
    assert anew
    assert all(anew[name] > before[name] for name in anew)


def test_names():
    """A fusion is of matchers that there are, each once; anything else is refused."""
    own = Matchers(fusion=["sift", "loftr"])
    assert matchers.expand("sift", own) == ("sift",)
    assert matchers.expand("fusion", own) == ("sift", "loftr")
    assert matchers.expand("fusion", Matchers())[0] == "mast3r"
    assert matchers.expand("fusion:sift, loftr", own) == ("sift", "loftr")
    for wrong in ("none", "fusion:", "fusion:sift", "fusion:sift,sift", "fusion:sift,fusion", ""):
        with pytest.raises(InvalidParams):
            matchers.expand(wrong, own)


def test_what_a_matcher_lacks(tmp_path):
    """Weights, a program and an acknowledged licence are each missed by the name of a setting."""
    (tmp_path / "there").write_bytes(b"x")
    there, gone = str(tmp_path / "there"), str(tmp_path / "gone")
    own = Matchers(
        superpoint_lightglue=Checkpoint(weights=gone),
        disk_lightglue=DetectorAndMatcher(features=there, matcher=gone),
        aliked_lightglue=DetectorAndMatcher(features=there, matcher=there),
    )
    assert matchers.problem_of("sift", own) == ""
    assert "superpoint_lightglue.weights" in matchers.problem_of("superpoint_lightglue", own)
    assert "disk_lightglue.matcher" in matchers.problem_of("disk_lightglue", own)
    assert matchers.problem_of("aliked_lightglue", own) == ""
    mixed = matchers.problem_of("fusion:sift,disk_lightglue,mast3r", own)
    assert "disk_lightglue: its weights" in mixed
    assert "mast3r: it is a program" in mixed
    with pytest.raises(Unavailable, match="superpoint_lightglue cannot work: its weights"):
        matchers.check("superpoint_lightglue", own)
    assert gone not in mixed


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        (ExternalProgram(), "not part of this server"),
        (
            ExternalProgram(command=["no-such-program"], licence_acknowledged=True),
            "not on this machine",
        ),
        (ExternalProgram(command=[sys.executable]), "CC BY-NC-SA 4.0"),
        (ExternalProgram(command=[sys.executable], licence_acknowledged=True), ""),
    ],
)
def test_what_a_program_lacks(needs, why):
    """A program must be there, and its licence acknowledged."""
    assert why in matchers.problem_of("mast3r", Matchers(mast3r=needs))
    assert bool(why) == bool(matchers.problem_of("mast3r", Matchers(mast3r=needs)))


def test_weights_in_the_hub_s_cache(tmp_path, monkeypatch):
    """A name is looked up in the hub's cache, a repository or one file of it, and nowhere else."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--kornia--disk"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "depth.pth").write_bytes(b"x")
    assert weights.locate("kornia/disk/depth.pth") is None  # no branch says which commit
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert weights.locate("kornia/disk/depth.pth") == snapshot / "depth.pth"
    assert weights.locate("kornia/disk") == snapshot
    for wrong in ("kornia/disk/other.pth", "kornia/other", "kornia", "kornia/disk/../../x", "/x/y"):
        assert weights.locate(wrong) is None


async def test_a_server_says_what_is_missing(scene, tmp_path):
    """GET /ready names each matcher; an upload for one that cannot work is 503 at once."""
    (tmp_path / "broken.ckpt").write_bytes(b"no weights")
    own = {**program(NOTHING), "loftr": {"weights": str(tmp_path / "broken.ckpt")}}
    own["fusion"] = ["sift", "mast3r"]
    async with asking(tmp_path, reconstruct={"matchers": own}) as ask:
        await ask.ready()
        for _ in range(600):
            _, ready = await ask("GET", "/ready")
            if "damaged" in ready["matchers"]["loftr"]:
                break
            await asyncio.sleep(0.1)
        told = ready["matchers"]
        assert (told["sift"], told["mast3r"], told["fusion"]) == ("ready",) * 3
        assert "its weights are damaged" in told["loftr"]
        assert "disk_lightglue.features" in told["disk_lightglue"]
        for name in ("loftr", "disk_lightglue", "fusion:sift,loftr"):
            status, answer = await ask.send(b"never read", matcher=name)
            assert status == 503, name
            assert "its weights are" in answer["detail"]
            assert str(tmp_path) not in answer["detail"]
        assert (await ask.send(b"never read", matcher="fusion:sift"))[0] == 422
        job = await ask.upload(packed(scene[0]), matcher="mast3r", max_size="640")
        ended = await ask.ended(job)
        assert (ended["stage"], ended["registration_rate"]) == ("success", 0.0)
        _, shown = await ask("GET", f"/v1/jobs/{job}")
        assert {each["status"] for each in shown["result"]["images"]} == {"no_verified_pair"}
        assert sys.executable not in str(shown)

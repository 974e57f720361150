"""Photographs of the same bytes count once: one does not confirm itself."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest
from test_reconstruct import QUICK

from mataserver_reconstruct import chart
from mataserver_reconstruct.graph import Graph, Pair
from mataserver_reconstruct.photos import Photo, readable, share_copies
from mataserver_reconstruct.verdicts import judge

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


def photo(name, digest="", **fields):
    """Return a photograph that was read."""
    return Photo(name=name, path=name, file=name, digest=digest or name, **fields)


def test_copies_share_the_working_copy_of_the_first():
    """What cannot be read is no copy of anything."""
    bad = [Photo(name=name, path=name, digest="d", problem="damaged") for name in "xy"]
    found = share_copies([bad[0], photo("a", "d"), photo("b"), photo("c", "d"), bad[1]])
    assert [each.file for each in found] == ["", "a", "b", "a", ""]
    assert [each.name for each in readable(found)] == ["a", "b"]


def test_a_copy_is_told_by_the_name_of_the_first():
    """Of photographs without a place, too; each has its own dot in the chart."""
    photos = share_copies([photo("a", "d"), photo("b"), photo("c", "d"), photo("z", "d")])
    pairs = [Pair("a", "b", 20, "CALIBRATED")]
    verdicts = judge(photos, Graph({"a": 900, "b": 900}, pairs), [], [])
    assert verdicts[1].reason.startswith("It matches a best, in 20 places")
    assert {verdicts[at].reason[:20] for at in (0, 2, 3)} == {"It matches b best, i"}
    picture = chart.svg(verdicts, pairs)
    assert len(set(re.findall(r'<circle cx="[^"]+" cy="[^"]+"', picture))) == 4
    (line,) = re.findall(r"<line [^>]+>", picture)
    assert '<circle cx="{}" cy="{}"'.format(*re.findall(r'1="([^"]+)"', line)) in picture


def test_every_photograph_twice(strip, begin, tmp_path):
    """The model is of as many as are different; each copy has its place and says whose it is."""
    source, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(strip, source)
    for path in strip.iterdir():
        shutil.copy(path, source / f"{path.stem} (2).jpg")
    end = begin(source, out, **QUICK).end()
    assert end.how == "done", end.why
    assert [each["num_images"] for each in end.figures["clusters"]] == [6]
    assert end.figures["n_registered"] == 12
    told = {each["name"]: each["reason"] for each in end.figures["images"]}
    assert sum(reason is None for reason in told.values()) == 6
    assert sum("It is the same file as p00" in (reason or "") for reason in told.values()) == 6
    (model,) = json.loads((out / "cameras.json").read_text())
    assert len({view["image"] for view in model["views"]}) == 12
    with (out / "submission.csv").open() as file:
        rows = {row["image"]: row["rotation_matrix"] for row in csv.DictReader(file)}
    assert all(rows[f"{path.stem} (2).jpg"] == rows[path.name] for path in strip.iterdir())
    assert "6 photographs stand in it more than once, and add nothing." in end.figures["advice"]


def test_two_photographs_are_no_model_however_often(strip, begin, tmp_path):
    """Depths that nothing confirms: it is told what is missing."""
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(5):
        shutil.copy(strip / f"p00{number % 2}.jpg", source / f"{number}.jpg")
    end = begin(source, tmp_path / "out", **QUICK).end()
    assert end.how == "done", end.why
    assert (end.figures["clusters"], end.figures["n_registered"]) == ([], 0)
    assert "2 different photographs cannot give a model" in end.figures["advice"][0]

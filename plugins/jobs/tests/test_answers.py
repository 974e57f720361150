"""The answers of an ``infer`` job on the disk."""

from __future__ import annotations

import resource

import msgspec
import pytest

from mataserver import Credentials
from mataserver_jobs.answers import AnswerLog, summary
from mataserver_jobs.job_tokens import JobTokens
from mataserver_jobs.record import Record


def test_a_torn_line(tmp_path):
    """Wherever the writing of a line was cut off, the whole lines stay and the next one follows."""
    path = tmp_path / "results.jsonl"
    with AnswerLog(path) as answers:
        for number in range(3):
            answers.append({"index": number, "text": "ü\n"})
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with AnswerLog(path) as answers:
            assert answers.count == sum(end <= cut for end in ends)
            for number in range(answers.count, 3):
                answers.append({"index": number, "text": "ü\n"})
        assert path.read_bytes() == whole


def test_a_full_disk(tmp_path):
    """What the disk takes no more of is an error that says so, and no line."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerLog(tmp_path / "results.jsonl") as answers:
        answers.append({"index": 0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                answers.append({"index": 1, "text": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    with AnswerLog(tmp_path / "results.jsonl") as answers:
        assert answers.count == 1


def test_a_summary():
    """Labels and failures are counted, tracks told with the items that they were seen in."""
    cat, dog = {"label": "cat", "track_id": 7}, {"label": "dog", "track_id": 8}
    lines = [
        {"index": 0, "result": {"detections": [cat, dog]}},
        {"index": 2, "error": "no image"},
        {"index": 4, "result": {"detections": [cat]}},
        {"index": 6, "result": {"classifications": [{"label": "cat"}, {"label": "cow"}]}},
        {"index": 8, "result": {"segments": [{"label": "cow"}]}},
        {"index": 10, "result": {"keypoints": [{"label": "person", "keypoints": [[1, 2, 0.9]]}]}},
        {"index": 12, "result": {"text": "a hen", "entities": [{"label": "hen"}]}},
    ]
    assert summary(iter(lines)) == {
        "items": 7,
        "failed": 1,
        "failures": [{"index": 2, "error": "no image"}],
        "labels": {"cat": 3, "dog": 1, "cow": 1, "person": 1, "hen": 1},
        "tracks": {
            "7": {"label": "cat", "frames": 2, "first": 0, "last": 4},
            "8": {"label": "dog", "frames": 1, "first": 0, "last": 0},
        },
    }


def test_a_summary_of_many_failures():
    """All are counted, and the first five named: a job's page shows them."""
    lines = [{"index": at, "file": f"{at}.jpg", "error": "no image"} for at in range(1000)]
    found = summary(iter(lines))
    assert (found["failed"], found["failures"]) == (1000, lines[:5])


def test_passes():
    """A token counts for its attempt, as the job's owner who may infer and nothing else."""
    values = {"stage": "", "progress": 0.0, "message": "", "spec": {}, "created_at": 0.0}
    record = Record(id="1", kind="infer", owner="key:ada", state="running", **values)
    tokens = JobTokens("http://x")
    first, second = tokens.mint(record), tokens.mint(record)
    assert first.token != second.token
    principal = tokens.principal(Credentials("bearer", second.token))
    assert (principal.id, principal.scopes) == ("key:ada", {"infer"})
    assert principal.background
    tokens.revoke(second)
    assert tokens.principal(Credentials("bearer", second.token)) is None
    assert tokens.principal(Credentials("bearer", "job_")) is None
    assert msgspec.json.decode(msgspec.json.encode(first))["url"] == "http://x"

"""Drift through a real server: a baseline, uploads that differ, and what follows of it."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np
import pytest
from airflow_stand_in import airflow
from PIL import Image
from serving_reconstruct import QUICK, asking, packed, session
from test_history import entry

from mataserver_database import Database
from mataserver_reconstruct.history import History

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]


@pytest.fixture(scope="module")
def photographs(strip):
    """Photographs of a scene by name; two stand in it twice: drift wants eight."""
    every = {path.name: path.read_bytes() for path in sorted(strip.iterdir())}
    return every | {f"again-{name}": every[name] for name in list(every)[:2]}


def darkened(data):
    """Return a photograph as underexposed."""
    with Image.open(io.BytesIO(data)) as picture:
        pixels = (np.asarray(picture) * 0.3).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=92, exif=picture.getexif())
    return out.getvalue()


async def told(ask, path="/drift/history"):
    """Return the lines of the history."""
    return [json.loads(line) for line in (await ask("GET", path))[1].splitlines()]


async def grow(folder, owner, measures):
    """Give an owner a baseline of 24 data sets around what was measured."""
    rng, database = np.random.default_rng(5), Database(folder)
    try:
        for at in range(24):
            spread = {
                name: (np.array(values) * (1 + rng.normal(0, 0.1)) + rng.normal(0, 0.01)).tolist()
                for name, values in measures.items()
            }
            await History(database).add(entry(float(at), owner, measures=spread))
    finally:
        await database.close()


async def test_from_a_baseline_to_a_retraining(photographs, tmp_path):
    """Photographs like those before do not drift; dark ones do, and begin one run of the DAG."""
    plain, dark = packed(photographs), packed({n: darkened(d) for n, d in photographs.items()})
    async with airflow(3) as stand_in:
        chosen = {"airflow_url": stand_in.url, "airflow_token": "of-the-settings"}
        chosen["auto_retrain"] = True
        async with asking(tmp_path, reconstruct=chosen) as ask:
            status, first = await ask.send(plain, "/drift")
            assert (status, first["status"]) == (200, "insufficient_data")
            assert (first["drift_detected"], first["severity"]) == (False, "low")
            (line,) = await told(ask)
            await grow(tmp_path, line["owner"], line["measures"])

            _, same = await ask.send(plain, "/drift")
            assert (same["status"], same["drift_detected"]) == ("ok", False)
            assert same["baseline"]["n_datasets"] == 24
            assert set(same["checks"]["brightness"]) >= {"drift", "severity", "z"}
            _, other = await ask.send(dark, "/drift")
            assert (other["drift_detected"], other["severity"]) == (True, "high")
            assert other["checks"]["brightness"]["drift"]
            assert not other["checks"]["aspect_ratio"]["drift"]
            assert other["checks"]["duplicate"]["current"] == 0.25  # two of eight stand in it twice
            cut = packed(photographs | dict.fromkeys(("w.jpg", "x.jpg", "y.jpg", "z.jpg"), b"cut"))
            broken = (await ask.send(cut, "/drift"))[1]
            assert (broken["checks"]["unreadable"]["drift"], broken["n_images"]) == (True, 8)
            assert other["recommendation"].startswith("High drift detected.")
            assert stand_in.asked == []  # a check retrains nothing

            good, bad = [await ask.upload(each, **QUICK) for each in (plain, dark)]
            assert (await ask.ended(good))["has_drift"] is False
            shown = await ask.ended(bad)
            assert (shown["has_drift"], shown["drift_severity"]) == (True, "high")
            _, insights = await ask("GET", f"/jobs/{bad}/insights")
            assert insights["drift_report"]["checks"]["brightness"]["severity"] == "high"
            assert insights["recommendation"].startswith("High drift detected.")
            async with asyncio.timeout(20):
                while not stand_in.runs:
                    await asyncio.sleep(0.05)
            assert list(stand_in.runs) == [f"drift-{bad}"]
            conf = stand_in.runs[f"drift-{bad}"]
            assert (conf["job_id"], conf["severity"]) == (bad, "high")
            assert "brightness" in conf["features"]
            metrics = (await ask("GET", "/metrics"))[1].decode()
            assert 'feature_drift_status{feature="brightness"} 2.0' in metrics
            assert "brightness_drift_z " in metrics
            lines = await told(ask)
            assert [each["kind"] for each in lines[24:]] == ["check"] * 4 + ["reconstruction"] * 2
            assert [each["id"] for each in lines[-2:]] == [good, bad]
            async with session(ask.served, "bob-key") as bob:
                assert await told(bob) == []
                _, fresh = await bob.send(plain, "/drift")
                assert fresh["status"] == "insufficient_data"  # another's data sets are no baseline
        assert list((tmp_path / "jobs").iterdir()) != []


async def test_archives_that_cannot_be_compared(tmp_path):
    """Neither a broken archive nor one of unreadable pictures is compared; nothing is left."""
    async with asking(tmp_path) as ask:
        for archive in (b"hello", packed({"a.txt": b""}), packed({"a.jpg": b"no picture"})):
            status, answer = await ask.send(archive, "/drift")
            assert status == 400, answer
        assert await told(ask) == []
        assert list((tmp_path / "jobs").iterdir()) == []


async def test_ready_waits_for_the_matcher(tmp_path):
    """/ready is 503 until the matcher is loaded, and says so; then it tells the device."""
    async with asking(tmp_path) as ask:
        status, answer = await ask("GET", "/ready")
        assert status == 503
        assert "reconstruct" in answer["waiting"]
        assert "model_server_ready 0.0" in (await ask("GET", "/metrics"))[1].decode()
        await ask.ready()
        assert (await ask("GET", "/ready"))[1]["device"].startswith("CPU (")

"""Twenty reconstructions queued, and ten times kill -9 of the server at random: ``make soak``.

All must end, each once, with the result of one that was left alone, and leave nothing behind.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import rendered
from apart import Server
from serving_reconstruct import QUICK, packed

JOBS, KILLS = 20, 10


def main():
    """Run it; tell what came of it."""
    rng, begun = random.Random(7), time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        photos, data = Path(made, "photos"), Path(made, "data")
        data.mkdir()
        rendered.orbit(photos, 11, 6, "p", (400, 300), arc=1.6)
        archive = packed(photos)
        server = Server(data)
        try:
            ids = {server.send(archive, **QUICK).json["job_id"] for _ in range(JOBS)}
            for kill in range(KILLS):
                time.sleep(rng.uniform(0.5, 8.0))
                server.kill()
                server = Server(data)
                say(f"kill {kill + 1}: {states(server, ids)}")
            for job in ids:
                server.until(f"/status/{job}", lambda a: a.json["finished_at"], 600)
            check(server, data, ids)
        finally:
            server.kill()
    say(f"{JOBS} jobs, {KILLS} kills, {time.monotonic() - begun:.0f} s: each ended once")


def say(line):
    """Tell at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def states(server, ids):
    """Return how many jobs are in each stage."""
    stages = [server.ask("GET", f"/status/{job}").json["stage"] for job in ids]
    return {stage: stages.count(stage) for stage in sorted(set(stages))}


def check(server, data, ids):
    """Raise unless every job has its result, its one entry, and its files alone."""
    for job in ids:
        done = server.ask("GET", f"/status/{job}").json
        assert (done["stage"], done["registration_rate"]) == ("success", 1.0), done
    server.until("/drift/history", lambda a: a.body.count(b"\n") >= JOBS)
    assert server.ask("GET", "/drift/history").body.count(b"\n") == JOBS
    assert {path.name for path in (data / "jobs").iterdir()} == ids
    left = list((data / "jobs").rglob("*.new*"))
    assert left == [], left
    used = sum(path.stat().st_size for path in (data / "jobs").rglob("*") if path.is_file())
    told = sum(server.ask("GET", f"/v1/jobs/{job}").json["bytes_used"] for job in ids)
    assert abs(used - told) < 0.02 * used, (used, told)


if __name__ == "__main__":
    sys.exit(main())

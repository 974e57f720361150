"""``make soak``: many jobs, and a server that is killed again and again.

20 ``infer`` jobs of a video of 30 seconds, half of them with a tracker; kill -9 of the server at
ten random moments. All must finish, every frame be answered exactly once and stand in the annotated
video once, tracks be those of a run that nobody disturbed, and the disk stay within its budget.
``python plugins/jobs/tests/soak.py [SEED]``.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import av
from films import video
from serving_jobs import apart, sent

JOBS, KILLS = 20, 10
FRAMES = 750
BETWEEN = (2.0, 9.0)
BUDGET = 400_000_000
MODELS = ("fake-detect", "fake-track")


class DiskUsageWatch:
    """What the disk takes at most while the soak runs."""

    def __init__(self, folder):
        self._folder = folder
        self.most = 0

    async def run(self):
        """Look, until cancelled."""
        while True:
            self.most = max(self.most, await asyncio.to_thread(self._taken))
            await asyncio.sleep(1.0)

    def _taken(self):
        total = 0
        for path in self._folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:  # it is being replaced
                continue
        return total


def tell(text):
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def without_time(line):
    """Return an answer without when it was given."""
    value = json.loads(line)
    value["result"].pop("timestamp")
    for name in ("session_id", "inference_ms", "dropped"):
        value["result"].pop(name, None)
    return value


def answers(folder, job):
    """Return the answers of a job."""
    text = (folder / "jobs" / job / "output" / "results.jsonl").read_text()
    return [without_time(line) for line in text.splitlines()]


def check(folder, job, wanted, shown):
    """Raise ``AssertionError`` unless a job has all its frames once, as undisturbed."""
    assert shown["state"] == "done", shown
    found = answers(folder, job)
    assert [line["index"] for line in found] == list(range(FRAMES)), job
    assert found == wanted["lines"], job
    assert shown["result"] == wanted["result"], job
    film = (folder / "jobs" / job / "output" / "annotated.mp4").read_bytes()
    with av.open(io.BytesIO(film)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == FRAMES, (job, len(times))
    assert all(abs(at - n / 25) < 2e-3 for n, at in enumerate(times)), job


async def undisturbed(folder, path):
    """Return what each model's job gives when nothing is killed."""
    found = {}
    async with apart(folder, slots=2) as ask:
        for model in MODELS:
            job = await sent(ask, path, model=model)
            shown = await ask.ended(job, 600)
            found[model] = {"lines": answers(folder, job), "result": shown["result"]}
    return found


async def disturbed(folder, path, chance):
    """Run the jobs and kill the server; return the jobs with their models, and how they ended."""
    jobs = {}
    for number in range(KILLS + 1):
        async with apart(folder, slots=2) as ask:
            if not jobs:
                for at in range(JOBS):
                    model = MODELS[at % len(MODELS)]
                    jobs[await sent(ask, path, model=model)] = model
            if number == KILLS:
                ended = {job: await ask.ended(job, 1800) for job in jobs}
                return jobs, ended
            await asyncio.sleep(chance.uniform(*BETWEEN))
            _, page = await ask("GET", "/v1/jobs?state=done&limit=1")
        tell(f"kill {number + 1}: {page['total']} of {JOBS} done")
    raise AssertionError


async def main(seed):
    """Run the soak."""
    chance, begun = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = await asyncio.to_thread(video, folder / "v.mp4", FRAMES)
        wanted = await undisturbed(folder / "calm", path)
        watch = DiskUsageWatch(folder / "wild")
        watching = asyncio.create_task(watch.run())
        jobs, ended = await disturbed(folder / "wild", path, chance)
        watching.cancel()
        for job, model in jobs.items():
            check(folder / "wild", job, wanted[model], ended[job])
        left = [each for job in jobs for each in (folder / "wild/jobs" / job).glob("work/film")]
        assert not left, left
    attempts = sorted(shown["attempt"] for shown in ended.values())
    assert watch.most < BUDGET, watch.most
    tell(
        f"SOAK PASSED: {len(jobs)} jobs, {len(jobs) * FRAMES} frames, {KILLS} kills, "
        f"attempts {attempts[0]} to {attempts[-1]}, {watch.most / 1e6:.1f} MB at most, "
        f"{time.monotonic() - begun:.0f} s, seed {seed}"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)))

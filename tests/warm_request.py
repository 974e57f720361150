"""The files of the core that a warm ``POST /v1/infer`` passes in the server, in their order.

Run as ``python tests/warm_request.py``: a server of this process answers a picture several times,
and the files whose code ran each time are printed. Work by the clock, such as the registry's, runs
beside some of them only, and is left out. The worker is another process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

import mataserver
from mataserver import testing

if TYPE_CHECKING:
    from types import FrameType

CORE = Path(mataserver.__file__).parent
PICTURE = Path(__file__).resolve().parents[1] / "examples" / "pictures" / "codes.jpg"
WARM_UP, COUNTED = 5, 8


class Passed:
    """The files of the core whose functions were called, by a profile's hook."""

    def __init__(self) -> None:
        self.files: dict[Path, None] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call."""
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(CORE):
            self.files[path] = None


async def passed() -> list[str]:
    """Return the files that every one of some warm requests passes, as they come."""
    found: list[dict[Path, None]] = []
    picture = PICTURE.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        points = testing.installed("opencv")
        async with (
            testing.serving(Path(folder), entry_points=points) as served,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {served.key}"}) as client,
        ):
            for _ in range(WARM_UP + COUNTED):
                hook = Passed()
                sys.setprofile(hook)
                async with client.post(
                    f"{served.url}/v1/infer?model=opencv-qr",
                    data=picture,
                    headers={"Content-Type": "image/jpeg"},
                ) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                sys.setprofile(None)
                found.append(hook.files)
    warm = found[WARM_UP:]
    return [
        path.relative_to(CORE).as_posix() for path in warm[0] if all(path in each for each in warm)
    ]


def files() -> list[str]:
    """Return them, asked in a process of its own."""
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    return ran.stdout.split()


if __name__ == "__main__":
    print("\n".join(asyncio.run(passed())))  # noqa: T201

"""What the tests of this folder share is found beside them."""

from __future__ import annotations

import sys
from pathlib import Path

from openapi_watch import documented_answers

__all__ = ["documented_answers"]

HERE = Path(__file__).parent
for folder in (HERE, HERE.parents[1] / "jobs" / "tests"):  # videos, and a server with jobs
    if str(folder) not in sys.path:  # behind all others, whose tests have a conftest too
        sys.path.append(str(folder))

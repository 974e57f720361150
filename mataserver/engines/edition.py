"""Which edition of the code a process runs: a server and its workers must run the same.

A package that is upgraded under a running server is imported by the next zygote, whose workers
would speak another wire: an answer was then 200 with stray bytes in front.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def _digest() -> str:
    """Return a digest of the modules that define what server and worker exchange."""
    found, package = hashlib.sha256(), Path(__file__).parents[1]
    for folder in (".", "config", "contract", "engines", "params", "processes"):
        for each in sorted(package.joinpath(folder).glob("*.py")):
            found.update(each.read_bytes())
    return found.hexdigest()


EDITION = _digest()
"""Read at the start: the files may be others later."""

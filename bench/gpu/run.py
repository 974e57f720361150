"""Everything there is to know on a GPU, in under nine minutes: ``python3 run.py``.

Options: ``--device cuda|cpu``, ``--quick`` (small networks, short turns: to try the suite itself)
and ``--only PART``. Prints one JSON object: the card, the versions, and what each part found; a
part that fails says why and the others go on. It exits with 1 when something is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = {"equality": 130, "throughput": 160, "memory": 80, "video": 60, "passes": 90}
"""The parts in their order, and the seconds that each may take on a GPU."""
PATIENCE = 4
"""How many times as long they may take on the CPU, where the suite itself is tried."""


def install(folder: str) -> dict[str, str]:
    """Unpack the wheels that came along; return the environment that finds them."""
    wheels = sorted(str(path) for path in (HERE / "wheels").glob("*.whl"))
    paths = [folder, str(HERE)]
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*command, "--target", folder, *wheels], check=True)
    else:  # in the project's own tree, where everything is installed
        paths += [str(HERE.parent), str(HERE.parents[1] / "plugins/hf/tests")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def part(name: str, options: list[str], environment: dict[str, str], seconds: float) -> Any:
    """Run a part in a process of its own; return what it printed last, and whether that is all."""
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    begun = time.monotonic()
    try:
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        said, found = error.stderr or b"", (error.stdout or b"").decode().strip().splitlines()
        why = {"failed": f"took over {seconds:.0f} s", "stderr": said.decode()[-2000:]}
        return {**(json.loads(found[-1]) if found else {}), **why}
    if ran.returncode:
        return {"failed": f"exit {ran.returncode}", "stderr": ran.stderr[-3000:]}
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    return {**found, "seconds": round(time.monotonic() - begun, 1)}


def machine(device: str) -> dict[str, Any]:
    """Return what it runs on."""
    import torch

    card = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {"card": card, "torch": torch.__version__, "cores": os.cpu_count()}


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=tuple(PARTS), action="append")
    asked = parser.parse_args()
    patience = 1 if asked.device == "cuda" else PATIENCE
    options = ["--device", asked.device, *(["--quick"] if asked.quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        environment = install(folder)
        found = {
            name: part(name, options, environment, seconds * patience)
            for name, seconds in PARTS.items()
            if not asked.only or name in asked.only
        }
    print(json.dumps({**machine(asked.device), **found}, indent=1))
    sys.exit(any("failed" in each or each.get("wrong") for each in found.values()))


if __name__ == "__main__":
    main()

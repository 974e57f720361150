"""Tests retraining against a real Airflow: ``make test-airflow``.

With the Python of the development environment. Airflow's own environment is made below ``build/``
on the first run: 300 MB, a minute or two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import airflow_environment

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the cases; return pytest's exit status."""
    print("Airflow's environment", flush=True)  # noqa: T201 - this is a command
    airflow_environment.programs()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    cases = [*command, str(HERE / "airflow_cases.py")]
    return subprocess.run(cases, check=False, cwd=airflow_environment.ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Names each failed test at once, and why: a run that its time limit ends prints no summary."""

from __future__ import annotations

import os

from ordinary_scheduling import OrdinaryScheduling


class FailureNames:
    """A plugin of pytest, for the process that prints: with ``-n`` it runs no test itself."""

    def __init__(self, config) -> None:
        """Keep the configuration, which has no reporter yet."""
        self._config = config

    def pytest_runtest_logreport(self, report) -> None:
        """Print the name of a test that failed, on a line of its own."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write(f"\nFAILED {report.nodeid} ({report.when})\n")
            why = [line for line in report.longreprtext.splitlines() if line.startswith("E  ")]
            terminal.write("".join(f"{line[:200]}\n" for line in why[:8]))


def pytest_configure(config) -> None:
    """Add it, but not to a worker, whose output nobody reads; and what watches each test."""
    config.pluginmanager.register(OrdinaryScheduling())
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(FailureNames(config))

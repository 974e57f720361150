"""The whole OpenAPI document, every guest's routes too, against a server: ``make test-api``.

Schemathesis sends what the document says and what it forbids; no answer may be undocumented, of
another type or another shape, and the server's log may tell of no failure.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from conftest import POINTS, register
from mataserver import testing

GUESTS = ("database", "accounts", "jobs", "fleet", "reconstruct", "sam")
CHECKS = (
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "ignored_auth"),
)
# Streams of events have a schema for each event, and a pull would install packages.
LEFT_OUT = r"/events$|/drift/stream|/models/pull"


@pytest.mark.timeout(900)
async def test_every_guest_does_what_the_document_says(tmp_path, monkeypatch, caplog):
    """No undocumented status, type or shape, keys demanded, and nothing that failed unforeseen."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    register(tmp_path, {"fake-detect": "detect", "fake-vlm": "vlm"})
    settings = {"engine": "thread", "max_sessions": 1_000_000, "allow_pip_pull": False}
    settings |= {"plugins": {"jobs": {"min_free_mb": 0}}}
    points = [*POINTS, *testing.installed(*GUESTS)]
    async with testing.serving(tmp_path, entry_points=points, **settings) as served:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("st")),
            *("run", f"{served.url}/openapi.json", "-H", f"Authorization: Bearer {served.key}"),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage"),
            *("--generation-deterministic", "--no-color", "--exclude-path-regex", LEFT_OUT),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    report = output.decode()
    assert process.returncode == 0, report[report.find("= FAILURES") :]
    failed = [each for each in caplog.records if each.exc_info and each.levelno >= logging.ERROR]
    assert not failed, failed[0]

"""What the exceptions of a download mean to the user."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl

import pytest

from mataserver.sources.failures import RepositoryError, failure
from mataserver.sources.meter import NoSpaceError


def transport(name: str, module: str, cause: Exception | None = None) -> Exception:
    """Return an exception like those of an HTTP client."""
    error = type(name, (Exception,), {"__module__": module})("https://user:secret@hub/path")
    error.__cause__ = cause
    return error


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/home/somebody/file")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (transport("ReadTimeout", "httpx2"), "it does not answer in time"),
        (transport("ConnectTimeout", "requests.exceptions"), "it does not answer in time"),
        (transport("RemoteProtocolError", "httpx"), "the connection broke"),
        (
            transport("ConnectError", "httpx2", system(errno.ENETUNREACH)),
            "Network is unreachable",
        ),
        (
            transport("ConnectError", "httpx2", socket.gaierror(-2, "Name or service not known")),
            "Name or service not known",
        ),
        (
            transport("ConnectError", "httpx2", ssl.SSLCertVerificationError("bad")),
            "its certificate is not trusted",
        ),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "the answer is not the hub's"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by"),
    ],
)
def test_transport_errors_mean_an_unreachable_hub(error, reason):
    """Whatever client raised it, the reason is told and no address."""
    told = failure(error, "org/m")
    assert told.kind == "unreachable"
    assert told.detail.startswith(f"cannot reach the hub: {reason}")
    assert "secret" not in told.detail


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (RepositoryError("no weights"), ("refused", "no weights")),
        (NoSpaceError("too large"), ("unwritten", "too large")),
        (system(errno.ENOSPC), ("unwritten", "the disk is full: org/m cannot be stored")),
        (system(errno.EDQUOT), ("unwritten", "the disk is full: org/m cannot be stored")),
        (system(errno.EROFS), ("unwritten", "org/m cannot be stored: Read-only file system")),
        (
            ValueError("https://user:secret@hub/path"),
            ("refused", "the download of org/m has failed"),
        ),
    ],
)
def test_other_errors_are_refusals(error, detail):
    """The disk's and all other failures are told without path or secret."""
    told = failure(error, "org/m")
    assert (told.kind, told.detail) == detail


def test_cause_below_a_wrapper_is_found():
    """The library wraps what happened; the reason is looked for below, and circles end."""
    wrapper = OSError("somewhere in /home/somebody")
    wrapper.__cause__ = system(errno.ENOSPC)
    wrapper.__cause__.__context__ = wrapper
    assert failure(wrapper, "org/m").detail == "the disk is full: org/m cannot be stored"

"""Why there is no answer, in words: the way from an exception of a connection to one of ours."""

from __future__ import annotations

import os

import aiohttp

from mataserver_client.failures import BadAnswer, ConnectionFailed

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
"""What OpenSSL calls an answer that is no TLS at all; newer releases say the second."""


def from_exception(error: Exception, where: str) -> ConnectionFailed | BadAnswer:
    """Return the exception for a connection to ``where`` (host and port) that failed."""
    if isinstance(error, TimeoutError):
        return ConnectionFailed(f"{where} did not answer in time")
    if isinstance(error, aiohttp.ClientPayloadError):
        return ConnectionFailed(f"The answer of {where} is not whole")
    if isinstance(error, aiohttp.ClientResponseError):
        return BadAnswer(f"What listens at {where} does not speak HTTP")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectionFailed(
            f"The certificate of {where} is not trusted ({_verification(error)}): "
            "SSL_CERT_FILE names a file of certificates that are"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None)
        no_tls = f"{where} does not speak TLS: is its address http://?"
        other = f"No TLS connection to {where} ({reason})"
        return ConnectionFailed(no_tls if reason in _NO_TLS else other)
    return ConnectionFailed(f"No connection to {where} ({_reason(error)})")


def _reason(error: Exception) -> str:
    """Return what the system says of a failed connection, or else the kind of the exception."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed without an answer"
    number, said = getattr(error, "errno", None), getattr(error, "strerror", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)  # aiohttp's own text may hold addresses
    return str(said or type(error).__name__)


def _verification(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Return what OpenSSL found wrong with a certificate."""
    cause = error.certificate_error
    return str(getattr(cause, "verify_message", "") or type(cause).__name__)

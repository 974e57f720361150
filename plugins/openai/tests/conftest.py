"""Answers are what the server's OpenAPI document says."""

from openapi_watch import documented_answers

__all__ = ["documented_answers"]

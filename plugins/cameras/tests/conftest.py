"""A server with the fake models, and a video to be played."""

from __future__ import annotations

from conftest import data_dir, documented_answers, http, server, video

__all__ = ["data_dir", "documented_answers", "http", "server", "video"]

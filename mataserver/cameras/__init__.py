"""Cameras: sources whose frames the server reads itself. docs/streaming.md describes them."""

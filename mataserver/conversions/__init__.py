"""Models that are converted when they are pulled: where ``runtime`` is "auto"."""

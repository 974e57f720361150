"""Which models there are: how they come, what serves them, how they go. None is in memory here."""

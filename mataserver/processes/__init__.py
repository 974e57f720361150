"""Child processes: their start, their environment and their confinement."""

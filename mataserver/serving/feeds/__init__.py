"""Sessions with frames from a service: read on demand, distributed to all viewers."""

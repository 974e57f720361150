"""Sessions whose frames a service gives: read while somebody looks, shown to whoever does."""

"""The HTTP layer: thin handlers, and their codec, middleware and authentication."""

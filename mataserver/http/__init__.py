"""The HTTP face: thin handlers, and the codec, middleware and auth they stand on."""

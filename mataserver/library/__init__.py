"""Which models exist: registration, lookup and removal. Nothing here is loaded into memory."""

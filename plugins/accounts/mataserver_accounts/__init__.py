"""Users, tokens and keys, made and revoked while the server runs."""

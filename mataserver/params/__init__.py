"""The inference parameters of the API: definition, parsing, error messages."""

"""A guest's tables, for the tests: two migrations."""

"""A package for tests of the command: its model counts letters."""

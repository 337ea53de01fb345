"""zoo-sr."""

"""Character n-grams: counted and estimated by a command, kept in a compact file, asked one context at a time."""

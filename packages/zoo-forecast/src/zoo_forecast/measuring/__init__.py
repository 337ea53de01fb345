"""Measuring forecasts: packs, windows, rules and peers beside a model, scores, suites."""

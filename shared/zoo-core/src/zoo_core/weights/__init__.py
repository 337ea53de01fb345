"""Weights: find them, prove that they are the right ones, load them strictly, convert foreign ones, publish ours."""

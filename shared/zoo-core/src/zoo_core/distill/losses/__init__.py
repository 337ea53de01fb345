"""Losses: pure functions (student, teacher, *, mask=None, constants) -> one number a sample (B,), at least float32.

Nothing here has weights, averages over a batch or moves a tensor. Inputs are widened to float32 (float64 stays), since
the divergence of near-equal half-precision logits is wrong by an order of magnitude. A mask (True: counts) lies over
the places inside a sample, and masked places have no gradient. All are 0 with gradient 0 where student and teacher
agree, if their docstring does not say otherwise.
"""

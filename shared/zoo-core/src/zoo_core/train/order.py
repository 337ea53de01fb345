"""Which samples a step sees, and its random draws: pure functions of (seed, step).

Nothing here has state, so a run that is resumed, or fed by any number of workers, sees the same data in the same order.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch


class Order:
    """An endless walk through n samples, newly shuffled each epoch, cut into batches.

    Batches run over epoch borders, so every sample comes exactly once an epoch even if `batch` does not divide n (and a
    batch may be larger than n).

    Args:
        n: number of samples.
        batch: samples a step.
        seed: of the shuffling.
    """

    def __init__(self, n: int, batch: int, seed: int) -> None:
        if n < 1 or batch < 1:
            raise ValueError(f"an order needs samples and a batch, got n={n}, batch={batch}")
        self.n, self.batch, self.seed = n, batch, seed
        self._recent: dict[int, npt.NDArray[np.int64]] = {}

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Return the `batch` sample numbers, each in [0, n), of this step (counted from 0)."""
        place = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, within = np.divmod(place, self.n)
        return np.concatenate([self.epoch(int(e))[within[epochs == e]] for e in np.unique(epochs)])

    def epoch(self, number: int) -> npt.NDArray[np.int64]:
        """Return the permutation of range(n) that this epoch (counted from 0) walks through."""
        if number not in self._recent:
            if len(self._recent) >= 2:
                self._recent.clear()
            # Sorting the raw bits of a named generator: numpy promises their stream for all versions, but not that of
            # Generator.permutation.
            bits = np.random.Philox(key=mixed(self.seed, number)).random_raw(self.n)
            self._recent[number] = np.argsort(bits, kind="stable")
        return self._recent[number]


def mixed(*numbers: int) -> int:
    """Return a 63-bit number that depends on all the given ones (as a seed: near steps get unrelated streams)."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one step's random draws."""
    generator = torch.Generator(device)
    generator.manual_seed(mixed(seed, step))
    return generator

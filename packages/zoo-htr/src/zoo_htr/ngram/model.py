"""What an n-gram, or a mixture of several, says of the next symbol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError
from zoo_htr.alphabet import Alphabet
from zoo_htr.ngram.estimate import EDGE
from zoo_htr.ngram.file import Stored, read

Floats = NDArray[np.float64]
MOST_REMEMBERED = 1 << 14  # contexts; about 20 MB
UNKNOWN = -10.0  # log probability of a symbol that the model's alphabet lacks


class NGram:
    """One model, asked by context: the indices of the symbols before, as bytes, the line's begin first if it is near.

    Args:
        stored: what a file holds.
        name: for messages and results.
    """

    def __init__(self, stored: Stored, name: str = "") -> None:
        self.name = name
        self.alphabet, self.order, self.header = stored.alphabet, stored.order, stored.header
        # indexing these gives Python's own integers, which is several times faster than NumPy's
        self._first_child, self._first_symbol = _view(stored.first_child), _view(stored.first_symbol)
        self._gamma, self._edges = _view(stored.gamma), stored.edges
        self._symbols, self._alpha = stored.symbols, stored.alpha
        self._floor = np.full(len(self.alphabet), 1 / len(self.alphabet), np.float32)
        self._remembered: dict[bytes, tuple[int, NDArray[np.float32]]] = {}

    @classmethod
    def read(cls, path: Path) -> NGram:
        """Read a file.

        Raises:
            InputError: missing or damaged.
        """
        return cls(read(path), path.stem)

    def probabilities(self, context: bytes) -> NDArray[np.float32]:
        """Return p(c | context), (V,); at index 0 that of the line's end. Not to be written to."""
        near = context[-(self.order - 1) :]
        found = self._remembered.get(near)
        return found[1] if found is not None else self._walk(near)[1]

    def _walk(self, context: bytes) -> tuple[int, NDArray[np.float32]]:
        """Return the number of a context and its probabilities; number -1 if no longer context is known."""
        found = self._remembered.get(context)
        if found is not None:
            return found
        if context:
            shorter, below = self._walk(context[1:])
            node = -1
            if shorter >= 0:
                node = self._edges.find(context[0], self._first_child[shorter], self._first_child[shorter + 1])
        else:
            node, below = 0, self._floor
        if node >= 0:
            a, b = self._first_symbol[node], self._first_symbol[node + 1]
            if a < b:
                below = below * self._gamma[node]
                below[self._symbols[a:b]] += self._alpha[a:b]
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[context] = node, below
        return node, below


def _view(array: NDArray[Any]) -> memoryview[Any]:
    return memoryview(array)  # type: ignore[arg-type]  # numpy's stubs do not say that arrays are buffers


class Mixture:
    """A weighted mean of models as a scorer of the beam search: alpha times the log probability of each symbol.

    Args:
        models: over one alphabet.
        weights: of each; they are scaled to the sum 1.
        alphabet: of the network; symbols that the models lack get a small probability and cut the context.
        scale: alpha, the weight of the language against what is seen.

    Raises:
        InputError: the models have different alphabets.
    """

    def __init__(
        self, models: Sequence[NGram], weights: Sequence[float], alphabet: Alphabet, *, scale: float = 1.0
    ) -> None:
        if len({model.alphabet for model in models}) != 1 or len(weights) != len(models):
            raise InputError("Models are mixed over one alphabet.", "Build them with the same --alphabet.")
        self.models, self.alphabet, self.scale = tuple(models), alphabet, scale
        self.weights = tuple(weight / math.fsum(weights) for weight in weights)
        self._context = max(model.order for model in models) - 1
        index = {symbol: i for i, symbol in enumerate(models[0].alphabet.symbols)}
        self._index = [index.get(symbol, -1) for symbol in alphabet.symbols]
        self._known = np.array([i for i, j in enumerate(self._index) if j >= 0])
        self._taken = np.array([j for j in self._index if j >= 0])
        self._same = self.alphabet == models[0].alphabet
        self._floor = np.zeros(len(models[0].alphabet), np.float32)
        self._remembered: dict[bytes, Floats] = {}

    def start(self) -> bytes:
        """Return the state at the begin of a line."""
        return bytes([EDGE])

    def step(self, state: bytes, symbol: int) -> bytes:
        """Return the state after a symbol of the network's alphabet."""
        index = self._index[symbol]
        return (state + bytes([index]))[-self._context :] if index >= 0 else b""

    def row(self, state: bytes) -> Floats:
        """Return alpha times the log probability of each symbol of the network's alphabet; index 0 is the end."""
        found = self._remembered.get(state)
        if found is None:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[state] = self.scale * self.log_probabilities(state)
        return found

    def log_probabilities(self, state: bytes) -> Floats:
        """Return the log probability of each symbol of the network's alphabet; index 0 is the end."""
        mean = self._floor.copy()
        for model, weight in zip(self.models, self.weights, strict=True):
            mean += weight * model.probabilities(state)
        known: Floats = np.log(mean, dtype=np.float64)
        if self._same:
            return known
        logs = np.full(len(self._index), UNKNOWN)
        logs[self._known] = known[self._taken]
        return logs

    def symbol_logs(self, label: Sequence[int]) -> list[float]:
        """Return the log probability of each symbol of a line, the end of the line included."""
        if not self.scale:
            return [0.0] * (len(label) + 1)
        state, means, known = self.start(), [], []
        for symbol in (*label, EDGE):
            index = self._index[symbol]
            # the arithmetic of `log_probabilities`, for one symbol
            mean = np.float32(0)
            for model, weight in zip(self.models, self.weights, strict=True):
                mean += np.float32(weight) * model.probabilities(state)[index]
            means.append(mean)
            known.append(index >= 0)
            state = self.step(state, symbol)
        logs = np.log(np.array(means), dtype=np.float64)
        return [float(v) for v in np.where(known, logs, UNKNOWN)]


def fitted_weights(models: Sequence[NGram], texts: Sequence[str], *, prior: float = 1.0) -> list[float]:
    """Return the weights that make texts likeliest; the texts may hold errors.

    Args:
        models: over one alphabet.
        texts: lines; characters out of the alphabet are left out.
        prior: imagined symbols that each model gets beforehand: few lines move the weights little.
    """
    return shares(np.stack([symbol_probabilities(model, texts) for model in models], axis=1), prior=prior)


def shares(table: Floats, *, prior: float, rounds: int = 30) -> list[float]:
    """Return the weights of a mixture that make events likeliest, by expectation and maximisation.

    Args:
        table: (N, M) probability of each event by each model; each row may have a factor of its own.
        prior: imagined events that each model gets beforehand.
        rounds: of the iteration.
    """
    weights = np.full(table.shape[1], 1 / table.shape[1])
    for _ in range(rounds if len(table) else 0):
        weights = weights * ((1 / (table @ weights)) @ table) + prior
        weights /= weights.sum()
    return [float(weight) for weight in weights]


def symbol_probabilities(model: NGram, texts: Sequence[str]) -> Floats:
    """Return the probability of every symbol of every line in turn, ends of lines included, as one array."""
    return np.concatenate([np.empty(0), *(label_probabilities(model, model.alphabet.known(text)) for text in texts)])


def label_probabilities(model: NGram, label: Sequence[int]) -> Floats:
    """Return the probability of every symbol of one line, and of its end."""
    line, reach = bytes([EDGE, *label]), model.order - 1
    ends = enumerate((*label, EDGE), start=1)
    return np.array([model.probabilities(line[max(end - reach, 0) : end])[symbol] for end, symbol in ends], np.float64)

"""Which n-grams a reader mixes: those that come with the package, or a user's own; weighed page by page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from zoo_core.errors import UsageError, did_you_mean
from zoo_htr.alphabet import Alphabet
from zoo_htr.ngram.model import Mixture, NGram, label_probabilities, shares

FOLDER = Path(__file__).parent / "languages"
SHIPPED = {"fr": ("transcripts-fr", "novels-fr"), "en": ("transcripts-en", "novels-en")}
AUTO = "auto"
PRIOR = 20.0  # symbols of each model of a language that a page's own stand against
PRIOR_LINES = 0.25  # lines of each language that a page's own stand against
LEAST_WEIGHT = 0.02  # a model below it only costs time


class Language:
    """The models of a language.

    Args:
        name: fr, en, auto (both; the page decides), or the path of an n-gram file.

    Raises:
        UsageError: there is no such language or file.
        InputError: the file is damaged.
    """

    def __init__(self, name: str) -> None:
        if name == AUTO or name in SHIPPED:
            wanted = SHIPPED.values() if name == AUTO else [SHIPPED[name]]
            self.languages = [[_read(FOLDER / f"{part}.ngram") for part in parts] for parts in wanted]
            self.name = name
        elif Path(name).is_file():
            self.languages = [[_read(Path(name))]]
            self.name = Path(name).name
        else:
            remedy = did_you_mean(name, [AUTO, *SHIPPED])
            raise UsageError(f"There is no language {name!r}.", f"{remedy} Or name an n-gram file.".strip())

    @property
    def facts(self) -> dict[str, str]:
        """What a result says of them: the sha256 of each."""
        return {model.name: str(model.header["sha256"]) for models in self.languages for model in models}

    def mixture(self, texts: Sequence[str], alphabet: Alphabet, *, scale: float) -> Mixture:
        """Weigh the models by a first reading of a page: first those of each language, then the languages by lines.

        Args:
            texts: its lines, errors and all; none: all models count the same.
            alphabet: of the network.
            scale: see `Mixture`.
        """
        weighed: list[tuple[NGram, float]] = []
        likelihoods, inner = [], []
        for models in self.languages:
            labels = [models[0].alphabet.known(text) for text in texts]  # a language's models share theirs
            tables = [np.stack([label_probabilities(model, label) for model in models], axis=1) for label in labels]
            weights = shares(np.concatenate([np.empty((0, len(models))), *tables]), prior=PRIOR)
            inner.append(weights)
            likelihoods.append([float(np.log(table @ np.array(weights)).sum()) for table in tables])
        table = np.array(likelihoods, np.float64).reshape(len(self.languages), len(texts)).T
        # a line is in one language: its symbols together say which far more surely than each by itself
        table = np.exp(table - table.max(axis=1, keepdims=True, initial=-np.inf))
        for models, weights, share in zip(self.languages, inner, shares(table, prior=PRIOR_LINES), strict=True):
            weighed += [(model, share * weight) for model, weight in zip(models, weights, strict=True)]
        kept = [(model, weight) for model, weight in weighed if weight >= LEAST_WEIGHT]
        return Mixture([m for m, _ in kept], [w for _, w in kept], alphabet, scale=scale)


@cache
def _read(path: Path) -> NGram:
    return NGram.read(path)

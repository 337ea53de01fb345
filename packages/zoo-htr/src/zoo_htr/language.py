"""Which n-grams a reader mixes: those that come with the package, or a user's own; weighed page by page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from zoo_core.errors import UsageError, did_you_mean
from zoo_htr.alphabet import Alphabet
from zoo_htr.ngram.model import Mixture, NGram, fitted_weights

FOLDER = Path(__file__).parent / "languages"
SHIPPED = {
    "fr": ("transcripts-fr", "novels-fr"),
    "en": ("transcripts-en", "novels-en"),
    "auto": ("transcripts-fr", "novels-fr", "transcripts-en", "novels-en"),
}
PRIOR = 20.0  # symbols of each model that a page's own lines stand against
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
        if name in SHIPPED:
            files = [FOLDER / f"{part}.ngram" for part in SHIPPED[name]]
        elif Path(name).is_file():
            files = [Path(name)]
        else:
            remedy = did_you_mean(name, SHIPPED)
            raise UsageError(f"There is no language {name!r}.", f"{remedy} Or name an n-gram file.".strip())
        self.name = name if name in SHIPPED else files[0].name
        self.models = [_read(file) for file in files]

    @property
    def facts(self) -> dict[str, str]:
        """What a result says of them: the sha256 of each."""
        return {model.name: str(model.header["sha256"]) for model in self.models}

    def mixture(self, texts: Sequence[str], alphabet: Alphabet, *, scale: float) -> Mixture:
        """Weigh the models by a first reading of a page.

        Args:
            texts: its lines, errors and all; none: all models count the same.
            alphabet: of the network.
            scale: see `Mixture`.
        """
        weights = fitted_weights(self.models, texts, prior=PRIOR)
        kept = [(m, w) for m, w in zip(self.models, weights, strict=True) if w >= LEAST_WEIGHT]
        return Mixture([m for m, _ in kept], [w for _, w in kept], alphabet, scale=scale)


@cache
def _read(path: Path) -> NGram:
    return NGram.read(path)

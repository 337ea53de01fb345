"""The symbols a recogniser can write: one object for network, decoder, language model and evaluation."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zoo_core.errors import UsageError

BLANK = 0  # CTC's "no symbol here"


@dataclass(frozen=True)
class Alphabet:
    """Symbols by their index in the network's output.

    Args:
        symbols: index 0 is the blank and stands as "". A symbol is one or more code points in NFC, as a letter with
            a mark that has no code point of its own.

    Raises:
        UsageError: no blank, an empty or repeated symbol, or one that is not NFC.
    """

    symbols: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)
    _longest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {symbol: i for i, symbol in enumerate(self.symbols)}
        if not self.symbols or self.symbols[BLANK] != "" or len(index) != len(self.symbols):
            raise UsageError("An alphabet begins with '' (the blank) and has every symbol once.")
        for symbol in self.symbols[1:]:
            if not symbol or unicodedata.normalize("NFC", symbol) != symbol:
                raise UsageError(f"{symbol!r} cannot be a symbol.", "Write symbols in NFC.")
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_longest", max(map(len, self.symbols)))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Alphabet:
        """Collect every code point of texts in NFC, in order of code points."""
        return cls(("", *sorted(set().union(*map(normal, texts)))))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Return the indices of a text, longest symbols first.

        Raises:
            UsageError: a character is no symbol.
        """
        text, indices, at = normal(text), [], 0
        if self._longest == 1 and all(c in self._index for c in text):
            return [self._index[c] for c in text]
        while at < len(text):
            symbol = self._symbol_at(text, at)
            if not symbol:
                raise UsageError(f"{text[at]!r} (U+{ord(text[at]):04X}) is not in the alphabet.")
            indices.append(self._index[symbol])
            at += len(symbol)
        return indices

    def index(self, symbol: str) -> int:
        """Return the index of one symbol, such as " ", which `encode` would strip.

        Raises:
            UsageError: it is not in the alphabet.
        """
        if symbol not in self._index:
            raise UsageError(f"{symbol!r} is not in the alphabet.")
        return self._index[symbol]

    def decode(self, indices: Sequence[int]) -> str:
        """Return the text of indices; blanks vanish, repeats stay."""
        return "".join(self.symbols[i] for i in indices)

    def unknown(self, text: str) -> str:
        """Return the characters of a text, in its order, that no symbol covers."""
        text, missing, at = normal(text), "", 0
        if self._longest == 1:
            return "".join(c for c in text if c not in self._index)
        while at < len(text):
            symbol = self._symbol_at(text, at)
            missing += "" if symbol else text[at]
            at += len(symbol) or 1
        return missing

    def known(self, text: str) -> list[int]:
        """Return the indices of a text, without its characters that no symbol covers."""
        missing = set(self.unknown(text))
        return self.encode("".join(c for c in text if c not in missing) if missing else text)

    def extended(self, texts: Iterable[str]) -> Alphabet:
        """Return this alphabet with the code points it lacks of `texts` at its end; known indices stay."""
        missing = set().union(*map(self.unknown, texts))
        return Alphabet((*self.symbols, *sorted(missing)))

    def _symbol_at(self, text: str, at: int) -> str:
        for length in range(min(self._longest, len(text) - at), 0, -1):
            if text[at : at + length] in self._index:
                return text[at : at + length]
        return ""


def normal(text: str) -> str:
    """Return a text as it is trained and evaluated on: NFC, every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())

"""The file of a character n-gram: a header in JSON, then bytes; every size is checked before it is believed.

    8 bytes   ZOONGRAM
    4 bytes   length of the header, little-endian
    header    UTF-8 JSON: format, alphabet, order, levels, licence, sources, sha256 of what follows, and more for people
    payload   for each level: of its C contexts the youngest-to-oldest next symbol, how many longer contexts grow from
              it, how many symbols are known after it, and the code of gamma (C bytes each); of its E n-grams the symbol
              and the code of alpha (E bytes each); two tables of 256 float32 that the codes point into

Contexts of a level are sorted as a tree is walked in breadth: those that grow from one context stand together. Alpha is
quantised; so that probabilities still add up to one, each context's alphas are scaled to 1 - gamma when read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError, UsageError
from zoo_core.io.atomic import whole
from zoo_htr.alphabet import Alphabet
from zoo_htr.ngram.estimate import MOST_ORDER, MOST_SYMBOLS, Codes, Floats, Level

MAGIC = b"ZOONGRAM"
FORMAT = 1
MOST_HEADER_BYTES = 1 << 16
MOST_BYTES = 1 << 28
_TABLE = 256
_REMEDY = "Build it again with python -m zoo_htr.ngram build."


@dataclass(frozen=True)
class Stored:
    """What a file holds, ready to be walked: contexts are numbered level by level, 0 is the empty one.

    Args:
        alphabet: of the model.
        order: symbols of the longest n-gram.
        header: everything that the header says.
        edges: the symbol by which each context grows from its shorter one.
        first_child: where the contexts that grow from each begin; one entry more than contexts.
        first_symbol: where its n-grams begin; one entry more than contexts.
        gamma: what each context leaves to the shorter one.
        symbols: of the n-grams.
        alpha: of the n-grams.
    """

    alphabet: Alphabet
    order: int
    header: Mapping[str, Any]
    edges: bytes
    first_child: NDArray[np.int64]
    first_symbol: NDArray[np.int64]
    gamma: NDArray[np.float32]
    symbols: NDArray[np.uint8]
    alpha: NDArray[np.float32]


def write(path: Path, levels: Sequence[Level], alphabet: Alphabet, about: Mapping[str, Any], *, overwrite: bool) -> int:
    """Write a model; return the size of the file in bytes.

    Args:
        path: of the file.
        levels: as `estimate` gives them.
        alphabet: of the model.
        about: more for the header, such as licence and sources.
        overwrite: replace a file of this name.

    Raises:
        InputError: the file exists and `overwrite` is off.
    """
    contexts, entries = _tree(levels)
    parts: list[bytes] = []
    sizes = []
    for depth, (known, level) in enumerate(zip(contexts, levels, strict=True)):
        longer = contexts[depth + 1] if depth + 1 < len(contexts) else np.zeros(0, np.uint64)
        children = np.bincount(np.searchsorted(known, longer >> np.uint64(8)), minlength=len(known))
        owner = np.searchsorted(known, level.codes >> np.uint64(8))
        gamma = np.ones(len(known))
        gamma[owner] = level.gamma
        kinds = np.bincount(owner, minlength=len(known))
        gamma_codes, gamma_table = _quantised(gamma)
        alpha_codes, alpha_table = _quantised(level.alpha)
        edges, symbols = known & np.uint64(0xFF), level.codes & np.uint64(0xFF)
        parts += [a.astype(np.uint8).tobytes() for a in (edges, children, kinds, gamma_codes, symbols, alpha_codes)]
        parts += [table.astype("<f4").tobytes() for table in (gamma_table, alpha_table)]
        sizes.append({"contexts": len(known), "ngrams": entries[depth]})
    payload = b"".join(parts)
    header = {
        **about,
        "format": FORMAT,
        "order": len(levels),
        "alphabet": list(alphabet.symbols),
        "levels": sizes,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    head = json.dumps(header, ensure_ascii=False).encode()
    if len(head) > MOST_HEADER_BYTES:
        raise UsageError(f"{path}: the header would have {len(head)} bytes.", "Say less about the sources.")
    with whole(path, overwrite=overwrite) as aside:
        aside.write_bytes(MAGIC + len(head).to_bytes(4, "little") + head + payload)
    return len(MAGIC) + 4 + len(head) + len(payload)


def read(path: Path) -> Stored:
    """Read a model; the file is mapped, hashed, and checked throughout.

    Raises:
        InputError: missing, damaged, or no such file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _parse(path, content)
    except (OSError, ValueError) as error:  # mmap refuses empty files with a ValueError
        raise InputError(f"{path} cannot be read as an n-gram ({error}).", "Check the path.") from error


def _parse(path: Path, content: mmap.mmap) -> Stored:
    if len(content) > MOST_BYTES or content[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path} is no n-gram file.", _REMEDY)
    start = len(MAGIC) + 4
    length = int.from_bytes(content[len(MAGIC) : start], "little")
    if length > min(MOST_HEADER_BYTES, len(content) - start):
        raise _damaged(path, "its header is cut off")
    header, sizes, alphabet = _header(path, content[start : start + length])
    payload = memoryview(content)[start + length :]
    try:
        if len(payload) != sum(4 * c + 2 * e + 8 * _TABLE for c, e in sizes):
            raise _damaged(path, "it has not the length that it states")
        if hashlib.sha256(payload).hexdigest() != header.get("sha256"):
            raise _damaged(path, "its sha256 is another than it states")
        return _unpack(path, payload, sizes, alphabet, header)
    finally:
        payload.release()


def _header(path: Path, data: bytes) -> tuple[dict[str, Any], list[tuple[int, int]], Alphabet]:
    try:
        header = json.loads(data)
        if header["format"] != FORMAT:
            raise _damaged(path, f"its format is {header['format']}, this program reads {FORMAT}")
        sizes = [(int(level["contexts"]), int(level["ngrams"])) for level in header["levels"]]
        alphabet = Alphabet(tuple(map(str, header["alphabet"])))
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise _damaged(path, f"its header is not understood: {error}") from error
    if not 1 <= len(sizes) <= MOST_ORDER or len(alphabet) > MOST_SYMBOLS or min(map(min, sizes)) < 0:
        raise _damaged(path, "its header states impossible sizes")
    return header, sizes, alphabet


def _unpack(
    path: Path, payload: memoryview, sizes: list[tuple[int, int]], alphabet: Alphabet, header: dict[str, Any]
) -> Stored:
    at = 0

    def take(count: int, kind: str = "u1") -> NDArray[Any]:
        nonlocal at
        array = np.frombuffer(payload, kind, count, at).copy()  # the map is closed when this is done
        at += array.nbytes
        return array

    edges, children, kinds, gammas, symbols, alphas = [], [], [], [], [], []
    for contexts, ngrams in sizes:
        edges.append(take(contexts))
        children.append(take(contexts))
        kinds.append(take(contexts))
        gamma_codes, ngram_symbols, alpha_codes = take(contexts), take(ngrams), take(ngrams)
        gamma_table, alpha_table = take(_TABLE, "<f4"), take(_TABLE, "<f4")
        gammas.append(gamma_table[gamma_codes])
        symbols.append(ngram_symbols)
        alphas.append(alpha_table[alpha_codes])
        if int(kinds[-1].sum()) != ngrams:
            raise _damaged(path, "its counts do not add up")
    for (longer, _), grown in zip([*sizes[1:], (0, 0)], children, strict=True):
        if int(grown.sum()) != longer:
            raise _damaged(path, "its counts do not add up")
    gamma, alpha, symbol = np.concatenate(gammas), np.concatenate(alphas), np.concatenate(symbols)
    good = sizes[0][0] == 1 and bool((symbol < len(alphabet)).all()) and bool(((gamma >= 0) & (gamma <= 1)).all())
    if not (good and bool(((alpha > 0) & (alpha <= 1)).all())):
        raise _damaged(path, "it holds impossible values")
    counts = np.concatenate(kinds).astype(np.int64)
    first_symbol = np.append(0, counts.cumsum())
    owner = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(owner, alpha, len(counts))
    gamma = np.where(counts > 0, gamma, 1.0).astype(np.float32)
    scale = (1 - gamma) / np.where(counts > 0, sums, 1.0)
    return Stored(
        alphabet,
        len(sizes),
        header,
        np.concatenate(edges).tobytes(),
        np.append(1, 1 + np.concatenate(children).astype(np.int64).cumsum()),
        first_symbol,
        gamma,
        symbol,
        (alpha * scale[owner]).astype(np.float32),
    )


def _tree(levels: Sequence[Level]) -> tuple[list[Codes], list[int]]:
    """Return the contexts of each level, sorted, with those that only longer ones need; and counts of n-grams."""
    contexts: list[Codes] = []
    longer = np.zeros(0, np.uint64)
    for level in reversed(levels):
        known = np.unique(np.concatenate([level.codes >> np.uint64(8), longer >> np.uint64(8)]))
        contexts.append(known)
        longer = known
    contexts.reverse()
    return contexts, [len(level.codes) for level in levels]


def _quantised(values: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Return codes and the table of 256 values they stand for, chosen to be near in ratio (Lloyd, 1982, on logs)."""
    table = np.ones(_TABLE)
    if not len(values):
        return np.zeros(0, np.uint8), table
    logs = np.log(values.clip(1e-12))
    centres = np.unique(logs)
    if len(centres) > _TABLE:
        centres = np.unique(np.quantile(logs, (np.arange(_TABLE) + 0.5) / _TABLE))
        for _ in range(20):
            codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, logs)
            used = np.bincount(codes, minlength=len(centres))
            sums = np.bincount(codes, logs, minlength=len(centres))
            centres = np.sort(np.where(used > 0, sums / np.maximum(used, 1), centres))
    codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, logs)
    table[: len(centres)] = np.exp(centres)
    return codes.astype(np.uint8), table


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}.", _REMEDY)

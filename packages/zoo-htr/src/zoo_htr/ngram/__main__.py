"""Build character n-grams and measure them: `python -m zoo_htr.ngram build|measure`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError, UsageError
from zoo_core.io.packs import find_pack, open_pack
from zoo_htr.alphabet import Alphabet, normal
from zoo_htr.language import FOLDER, SHIPPED
from zoo_htr.ngram import file
from zoo_htr.ngram.estimate import Method, estimate, pseudo_lines
from zoo_htr.ngram.model import NGram, fitted_weights, symbol_probabilities

FILE = click.Path(path_type=Path, dir_okay=False)
MOST_TEXT_BYTES = 1 << 28


@click.group()
def group() -> None:
    """Build character n-grams for the beam search, and measure them."""


@group.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", "target", required=True, type=FILE, help="The file to write.")
@click.option("--model", default="htr-jand-student", show_default=True, help="Whose alphabet it is to have.")
@click.option("--order", default=6, show_default=True, help="Symbols of the longest n-gram.")
@click.option("--method", type=click.Choice(["kneser-ney", "witten-bell"]), default="kneser-ney", show_default=True)
@click.option("--prune", default=0.0, show_default=True, help="Nats of training likelihood that an n-gram may cost.")
@click.option("--corpus", "corpora", multiple=True, help="Of packs, only rows of this corpus; repeatable.")
@click.option("--licence", required=True, help="Of the sources, SPDX or in words; the file states it.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@output.format_option
def build(
    sources: Sequence[str],
    *,
    target: Path,
    model: str,
    order: int,
    method: Method,
    prune: float,
    corpora: Sequence[str],
    licence: str,
    overwrite: bool,
    out: output.Output,
) -> None:
    """Build a model from SOURCE...: packs with a column text, one line a row, or .txt files with one paragraph a line.

    Paragraphs are first cut into lines of 22 to 60 characters, as handwriting has them.
    """
    alphabet = Alphabet(tuple(catalog.find(model).manifest.config["alphabet"]))
    lines, facts = [], []
    for source in sources:
        path = find_pack(source)
        read = _lines(path, corpora)
        lines += read
        facts.append({"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "lines": len(read)})
    levels = estimate(lines, alphabet, order=order, method=method, prune=prune)
    about = {"licence": licence, "sources": facts, "method": method, "prune": prune, "corpora": list(corpora)}
    size = file.write(target, levels, alphabet, about, overwrite=overwrite)
    data = {"file": str(target), "bytes": size, "lines": len(lines), "ngrams": sum(len(x.codes) for x in levels)}
    text = f"{target}: {data['ngrams']} n-grams of up to {order} symbols from {len(lines)} lines, {size / 1e6:.2f} MB"
    out.result("zoo.htr.ngram/1", data, text)


@group.command()
@click.argument("files", nargs=-1, type=FILE)
@click.option("--data", required=True, metavar="PATH|NAME", help="A pack with a column text, or a .txt file.")
@click.option("--fit", "fit_on", metavar="PATH|NAME", help="Fit the weights of the mixture here; default on the data.")
@output.format_option
def measure(files: Sequence[Path], *, data: str, fit_on: str | None, out: output.Output) -> None:
    """Print bits per character (ends of lines count as one) of each model and of their mixture, by corpus.

    Without FILES, of the models that come with the package.
    """
    files = files or [FOLDER / f"{name}.ngram" for names in SHIPPED.values() for name in names]
    models = [NGram.read(path) for path in files]
    names = [path.stem for path in files]
    texts, fitted = _by_corpus(find_pack(data)), _by_corpus(find_pack(fit_on or data))
    rows: list[dict[str, Any]] = []
    bits, symbols = np.zeros(len(models) + 1), 0
    for corpus, lines in texts.items():
        weights = fitted_weights(models, fitted.get(corpus, lines))
        table = np.stack([symbol_probabilities(model, lines) for model in models], axis=1)
        sums = [-float(np.log2(column).sum()) for column in (*table.T, table @ weights)]
        bits += sums
        symbols += len(table)
        shown = {name: round(weight, 3) for name, weight in zip(names, weights, strict=True)}
        rows.append(_row(corpus, len(table), [s / len(table) for s in sums], names, shown))
    rows.append(_row("all", symbols, (bits / symbols).tolist(), names, {}))
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "corpus": lambda row: str(row["corpus"]),
        "characters": lambda row: str(row["characters"]),
    }
    columns |= {name: partial(_bits, name=name) for name in (*names, "mixture")}
    columns["weights"] = lambda row: " ".join(f"{weight:.2f}" for weight in row["weights"].values())
    out.table("zoo.htr.ngram-bits/1", rows, columns, right=("characters", *names, "mixture"))


def _bits(row: Mapping[str, Any], *, name: str) -> str:
    return f"{row['bits'][name]:.3f}"


def _row(corpus: str, count: int, bits: list[float], names: list[str], weights: dict[str, float]) -> dict[str, Any]:
    if not all(map(math.isfinite, bits)):
        raise InputError(f"{corpus}: a character has probability 0.", "Build the models again.")
    return {
        "corpus": corpus,
        "characters": count,
        "bits": dict(zip([*names, "mixture"], bits, strict=True)),
        "weights": weights,
    }


def _by_corpus(path: Path) -> dict[str, list[str]]:
    if path.suffix == ".txt":
        return {path.stem: _lines(path, ())}
    pack = open_pack(path, plain_column="text", suffixes=frozenset({".txt"}))
    grouped: dict[str, list[str]] = {}
    for row in pack.examples([c for c in ("text", "corpus") if c in pack.columns or c == "text"]):
        grouped.setdefault(str(row.get("corpus") or pack.name), []).append(normal(row["text"]))
    return grouped


def _lines(path: Path, corpora: Sequence[str]) -> list[str]:
    if path.suffix == ".txt":
        try:
            if path.stat().st_size > MOST_TEXT_BYTES:
                raise InputError(f"{path} is larger than {MOST_TEXT_BYTES >> 20} MiB.", "Take a part of it.")
            return pseudo_lines(path.read_text(encoding="utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error}).", "Text files are UTF-8.") from error
    grouped = _by_corpus(path)
    unknown = [corpus for corpus in corpora if corpus not in grouped]
    if unknown:
        raise UsageError(f"{path} has no corpus {unknown[0]!r}.", f"Its corpora are {', '.join(grouped)}.")
    return [line for corpus, lines in grouped.items() if not corpora or corpus in corpora for line in lines]


if __name__ == "__main__":
    main(command=group, name="python -m zoo_htr.ngram")

"""Train HTR-JAND by a recipe: `python -m zoo_htr.train htr-jand-student [key=value ...]` or `zoo train ...`."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo_core.catalog import CatalogEntry, find
from zoo_core.config import load_recipe
from zoo_core.errors import UsageError
from zoo_core.io.packs import find_pack, pack_paths
from zoo_core.train import RunRecord, fit, launch, seed_all
from zoo_core.weights.build import config_in, construct
from zoo_core.weights.files import load_strict, read_tensors
from zoo_core.weights.find import find as find_weights
from zoo_htr.alphabet import Alphabet
from zoo_htr.data import Line, part_of, read_lines, scribbles
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.task import HTRTask, Recipe

LOG = logging.getLogger(__name__)
NEW_SYMBOL_BIAS = -4.0  # a symbol that was never seen is unlikely until it is learnt


def weight_file(name: Path) -> Path:
    """Return the file of a model id's weights, or `name` itself if it is a file name with a suffix."""
    return name if name.suffix else find_weights(find(str(name))).path


def grown(tensors: Mapping[str, Tensor], symbols: int) -> dict[str, Tensor]:
    """Return a network's tensors with rows for more symbols: the mean row, and a bias that keeps them unlikely.

    Args:
        tensors: a state dict of HTRJAND.
        symbols: how many the output layer is to have, at least as many as it has.
    """
    weight, bias = tensors["head.weight"], tensors["head.bias"]
    more = symbols - len(weight)
    rows = weight.float().mean(0, keepdim=True).expand(more, -1).to(weight.dtype)
    return {
        **tensors,
        "head.weight": torch.cat([weight, rows]),
        "head.bias": torch.cat([bias, bias.new_full((more,), NEW_SYMBOL_BIAS)]),
    }


def start(entry: CatalogEntry, recipe: Recipe, texts: list[str]) -> tuple[HTRJAND, dict[str, Any]]:
    """Make the network: fresh, or from `init`; its alphabet grows by what the texts hold beyond it, which is said.

    Returns:
        the network, and the constructor arguments that are not the manifest's.

    Raises:
        WeightsError: `init` is of another network.
    """
    manifest = entry.manifest
    tensors: dict[str, Tensor] | None = None
    changed: dict[str, Any] = {}
    if recipe.init is not None:
        path = weight_file(recipe.init)
        tensors, facts = read_tensors(path)
        changed = config_in(facts, what=str(path))
    if recipe.branches != changed.get("branches", manifest.config.get("branches", "both")):
        changed["branches"] = recipe.branches
    known = Alphabet(tuple(changed.get("alphabet", manifest.config["alphabet"])))
    alphabet = known.extended(texts)
    if len(alphabet) > len(known):
        fresh = " ".join(f"{symbol} (U+{ord(symbol):04X})" for symbol in alphabet.symbols[len(known) :])
        LOG.warning("the alphabet grows by %d symbols: %s", len(alphabet) - len(known), fresh)
        changed["alphabet"] = list(alphabet.symbols)
    network = construct(entry, changed)
    assert isinstance(network, HTRJAND)  # noqa: S101 (for mypy)
    if tensors is not None:
        load_strict(network, grown(tensors, len(alphabet)), what=str(recipe.init))
    return network, changed


def lines_of(recipe: Recipe, alphabet: Alphabet) -> dict[str, list[Line]]:
    """Read what a recipe names: `real`, `validation`, `synthetic` and `replay` lines.

    Raises:
        InputError: a pack is missing or damaged.
    """
    lines = _read(recipe, alphabet)
    if recipe.left_out is not None:
        learnt = [group for group in lines if group != "validation"]
        lines |= {
            group: [x for x in lines[group] if part_of(x.name, recipe.parts) != recipe.left_out] for group in learnt
        }
    return lines


def _read(recipe: Recipe, alphabet: Alphabet) -> dict[str, list[Line]]:
    if not recipe.packs:
        return {"real": scribbles(64, alphabet, seed=1), "validation": scribbles(16, alphabet, seed=2)}
    packs = pack_paths(recipe.packs)
    lines = {"real": read_lines(packs, "train"), "validation": read_lines(packs, "val")}
    if recipe.synthetic:
        lines["synthetic"] = read_lines(pack_paths(recipe.synthetic), "train")
    replayed = [pack for name in recipe.replay if (pack := _found(name)) is not None]
    if replayed and recipe.replay_share:
        lines["replay"] = read_lines(replayed, "train")
    return lines


def _found(name: str) -> Path | None:
    try:
        return find_pack(name)
    except UsageError:
        LOG.warning("nothing is replayed from %s: it is not here", name)
        return None


def train(
    entry: CatalogEntry,
    overrides: list[str],
    *,
    recipe: Path | None = None,
    out: Path,
    resume: Literal["auto", "never"] | Path = "auto",
    dry_run: bool = False,
    smoke: bool = False,
) -> RunRecord:
    """Train a model of this package by its recipe.

    Args:
        entry: the model.
        overrides: `key=value` over the recipe's keys.
        recipe: another recipe than the model's own.
        out: folder of the run.
        resume: see `zoo_core.train.fit`.
        dry_run: only say what the run would take.
        smoke: a run of seconds on bar codes.
    """
    settings = load_recipe(recipe or entry.recipe_path(), overrides, Recipe, smoke=smoke)
    fabric = launch(settings)
    seed_all(settings.seed)
    lines = lines_of(settings, Alphabet(tuple(entry.manifest.config["alphabet"])))
    if settings.epochs is not None:
        steps = math.ceil(settings.epochs * len(lines["real"]) / settings.batch)
        settings = settings.model_copy(update={"steps": steps})
    network, changed = start(entry, settings, [line.text for line in lines["real"]])
    if settings.freeze_statistics:
        network.freeze_statistics()
    task = HTRTask(network, settings, fabric.device, **lines, changed=changed)
    return fit(task, settings, out, resume=resume, dry_run=dry_run, fabric=fabric)


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["train", *sys.argv[1:]])

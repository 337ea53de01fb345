"""Train Aurora small by a recipe: `python -m zoo_forecast.train aurora-small [key=value ...]` or `zoo train ...`."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo_core.catalog import CatalogEntry
from zoo_core.config import load_recipe
from zoo_core.errors import MissingDependencyError
from zoo_core.io.packs import pack_paths
from zoo_core.train import RunRecord, fit, launch, seed_all
from zoo_core.weights.build import construct
from zoo_core.weights.files import load_strict, read_tensors
from zoo_forecast import minilm
from zoo_forecast.bert import BERT
from zoo_forecast.corpus import Corpus, Texts, Track, read_tracks
from zoo_forecast.events import Events, make_event
from zoo_forecast.leaks import check_training_packs
from zoo_forecast.light_tower import LightTower
from zoo_forecast.sentences import among, numbers_of_versions, versions
from zoo_forecast.small import AuroraSmall
from zoo_forecast.small_exam import Exam, events, held_out
from zoo_forecast.small_steps import StepsTask
from zoo_forecast.small_task import Recipe, SmallTask
from zoo_forecast.synth import load, make_series
from zoo_forecast.tower_task import TowerTask
from zoo_forecast.windows import Windows

LOG = logging.getLogger(__name__)
FEW = 32  # series and events that are made where no file of them is named
EXAMINED = 384  # events


def open_tower(recipe: Recipe, layers: int, device: torch.device) -> BERT | None:
    """Return what reads texts, or None, which is said.

    Raises:
        MissingDependencyError: the recipe wants texts of packs to be read, and MiniLM is not here.
    """
    try:
        half = device.type == "cuda"
        dtype = torch.float16 if half else torch.float32
        return minilm.open_tower(recipe.tower, layers=layers, device=device, dtype=dtype)
    except MissingDependencyError:
        if recipe.packs:
            raise
        LOG.warning("MiniLM is not here: no text is read")
        return None


def material(recipe: Recipe, network: AuroraSmall, device: torch.device) -> tuple[Windows, Exam]:
    """Read and make what is learnt, and what is asked on the way.

    Args:
        recipe: all keys.
        network: for which it is made.
        device: where it lives.

    Raises:
        InputError: a pack is damaged, or holds what models are measured on and these weights begin from nothing.
        MissingDependencyError: see `open_tower`.
    """
    if recipe.init is None:  # whoever fine-tunes knows what is whose
        check_training_packs(pack_paths(recipe.packs))
    texts = Texts()
    if recipe.synthetic is not None:
        made, told = load(recipe.synthetic)
    else:
        made = [Track(f"made/{n}", *make_series(0, n), group="made") for n in range(FEW)]
        told = [make_event(0, n) for n in range(FEW)]
    told = told if recipe.events else []
    tracks = read_tracks(pack_paths(recipe.packs), texts) if recipe.packs else made
    if recipe.told_among and texts.all:
        told = among(told, texts.all, recipe.told_among, recipe.seed)
    said = [event.text for event in told if event.text]
    shorter = versions(texts.all, recipe.seed) if recipe.texts_cut else []
    synthetic = Corpus(made, device)
    real = Corpus(_numbered(tracks, len(said)), device) if recipe.packs else synthetic
    LOG.info("%d series, %d made ones, %d texts", len(tracks), len(made), len(texts.all) + len(said))
    tower = open_tower(recipe, network.text_layers, device) if recipe.texts and (said or texts.all) else None
    states: Tensor | None = None
    if tower is not None:
        states = minilm.read(tower, [*said, *texts.all, *shorter])
        LOG.info("texts were read: %.1f GB", states.numel() * 2 / 1e9)
    happening = Events(told, 0, device) if told else None
    cuts = numbers_of_versions(len(said), len(texts.all)).to(device) if shorter else None
    windows = Windows(real, synthetic, happening, states, recipe.shares, network.token_length, cuts)
    asked = events(EXAMINED if recipe.packs else 4) if tower is not None and told else []
    return windows, Exam(held_out(tracks), asked, tower)


def tower_task(recipe: Recipe, network: AuroraSmall, device: torch.device) -> TowerTask:
    """Put together what teaches the light tower: MiniLM, the texts of packs and made events, an exam.

    Raises:
        InputError: a pack is damaged, or holds what models are measured on.
        MissingDependencyError: MiniLM is not here.
    """
    check_training_packs(pack_paths(recipe.packs))
    texts = Texts()
    read_tracks(pack_paths(recipe.packs), texts)
    told = load(recipe.synthetic)[1] if recipe.synthetic else [make_event(0, n) for n in range(FEW)]
    said = [*texts.all, *(event.text for event in told if event.text)]
    teacher = minilm.open_tower(recipe.tower, layers=network.text_layers, device=device)
    exam = Exam([], events(EXAMINED if recipe.packs else 4))
    LOG.info("%d texts", len(said))
    return TowerTask(LightTower().to(device), teacher, recipe, said, exam, network if recipe.init else None, device)


def _numbered(tracks: list[Track], first: int) -> list[Track]:
    """Let the texts of tracks be numbered behind `first` others."""
    return [
        track if track.texts is None else replace(track, texts=track.texts + (first * (track.texts >= 0)).astype("i4"))
        for track in tracks
    ]


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
        smoke: a run of seconds on made series.
    """
    settings = load_recipe(recipe or entry.recipe_path(), overrides, Recipe, smoke=smoke)
    fabric = launch(settings)
    seed_all(settings.seed)
    network = construct(entry)
    assert isinstance(network, AuroraSmall)  # noqa: S101 - the manifest names this class
    if settings.init is not None:
        load_strict(network, read_tensors(settings.init)[0], what=str(settings.init))
    network.to(fabric.device)
    if settings.tuned == "heads":
        network.requires_grad_(False)
        for part in network.heads():
            part.requires_grad_(True)
    task: SmallTask | TowerTask
    if settings.tuned == "tower":
        task = tower_task(settings, network, fabric.device)
    else:
        windows, exam = material(settings, network, fabric.device)
        kind = StepsTask if settings.taught_steps else SmallTask
        task = kind(network, settings, windows, exam, fabric.device)
    return fit(task, settings, out, resume=resume, dry_run=dry_run, fabric=fabric)


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["train", *sys.argv[1:]])

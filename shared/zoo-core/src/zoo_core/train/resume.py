"""Where a run begins, and whether a checkpoint is of the same run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo_core.errors import UsageError, ZooError
from zoo_core.train.recipe import TrainRecipe
from zoo_core.train.record import RunRecord
from zoo_core.train.state import Checkpoint, existing, read_checkpoint, whole_checkpoints
from zoo_core.weights.files import sha256_of

LOG = logging.getLogger("zoo_core.train")
SHOWN = 12  # characters of a fingerprint in messages


def starting_point(folder: Path, resume: str | Path, speaks: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None for a run from the start.

    Args:
        folder: the checkpoints of this run.
        resume: `auto`, `never`, or the path of a checkpoint or of a run's folder.
        speaks: whether this process tells about damaged checkpoints.

    Raises:
        UsageError: `never`, and the folder holds checkpoints; or the path holds none.
        ZooError: there are checkpoints and all are damaged.
    """
    if resume == "never":
        if existing(folder):
            raise UsageError(f"{folder.parent} holds a run already.", "Choose another folder, or resume it.")
        return None
    if isinstance(resume, Path):
        if not existing(resume / "checkpoints"):
            return read_checkpoint(resume)
        folder = resume / "checkpoints"
    found = None
    for found in whole_checkpoints(folder):
        if isinstance(found, Checkpoint):
            return found
        if speaks:
            LOG.warning("%s Trying the one before.", found)
    if found is not None:
        raise ZooError(f"All checkpoints in {folder} are damaged. {found}", "Start anew in another folder.")
    return None


def finished_record(out: Path, recipe_hash: str) -> RunRecord | None:
    """Return the record of a run that is complete with its weights, so that nothing is done twice."""
    try:
        record = RunRecord.model_validate_json((out / "record.json").read_text(encoding="utf-8"))
        complete = record.weights is not None and sha256_of(out / "weights.safetensors") == record.weights["sha256"]
    except (OSError, ValueError):
        return None
    return record if complete and record.recipe_hash == recipe_hash else None


def check_same_run(
    recipe: TrainRecipe, fingerprint: str, identities: Mapping[str, str], checkpoint: Checkpoint
) -> None:
    """Refuse a checkpoint that was trained otherwise; keys of `recipe.may_change` may differ.

    Raises:
        UsageError: names the key and both values, or says that the data or what is learned from differ.
    """
    theirs, ours = checkpoint.data["recipe"], recipe.model_dump(mode="json")
    for key, value in ours.items():
        # a checkpoint from before this key existed was trained with what is its default now
        default = {key: type(recipe).model_fields[key].get_default(call_default_factory=True)}
        difference = _difference(theirs.get(key, default[key]), value, key)
        if difference and key not in recipe.may_change:
            place, before, now = difference
            raise UsageError(
                f"The checkpoint at step {checkpoint.step} was trained with {place}={before}, this recipe says {now}.",
                f"Set {place}={before}, or train in another folder.",
            )
    changed, given = [], []
    if fingerprint != (theirs_data := checkpoint.data["data_fingerprint"]):
        changed.append(f"on other data ({theirs_data[:SHOWN]}, these are {fingerprint[:SHOWN]})")
        given.append("data")
    before = checkpoint.data.get("identities", {})
    # what has a dot in its name says what a thing is made of, and decides nothing
    for name in sorted(name for name in before.keys() | identities.keys() if "." not in name):
        then, now = before.get(name, "none"), identities.get(name, "none")
        if then != now:
            parts = _parts_that_differ(name, before, identities)
            changed.append(f"with another {name} ({then[:SHOWN]}, this is {now[:SHOWN]}{parts})")
            given.append(name)
    if changed:
        raise UsageError(
            f"The checkpoint at step {checkpoint.step} was trained {' and '.join(changed)}.",
            f"Give the same {' and '.join(given)}, or train in another folder.",
        )


def _parts_that_differ(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    both = sorted(
        part for part in before.keys() & now.keys() if part.startswith(f"{name}.") and before[part] != now[part]
    )
    told = [f"{part.removeprefix(f'{name}.')} {before[part][:SHOWN]} -> {now[part][:SHOWN]}" for part in both]
    return f": {', '.join(told)}" if told else ""


def _difference(before: Any, now: Any, place: str) -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            found = _difference(before.get(key), now.get(key), f"{place}.{key}")
            if found:
                return found
        return None
    return (place, before, now) if before != now else None


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimiser's tensors by `parameter.name`, and the rest of its state as JSON-able data."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value
            else:
                rest.setdefault(str(parameter), {})[name] = value
    groups = [
        {name: value for name, value in group.items() if name != "params" and not isinstance(value, Tensor)}
        for group in state["param_groups"]
    ]
    return tensors, {"state": rest, "groups": groups}


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what `optimizer_state` took, after a way through JSON (lists that were tuples become tuples again)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {int(parameter): dict(values) for parameter, values in rest["state"].items()}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        # files keep no strides, and fused optimisers want those of the parameter (channels_last, say)
        value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, rest["groups"], strict=True):
        for name, value in saved.items():
            group[name] = tuple(value) if isinstance(group.get(name), tuple) else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})

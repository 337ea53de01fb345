"""Other people's checkpoints: open them safely, say what they are, give them our keys.

A package recognises the checkpoints of its models with one function, named by `entry.convert` of its manifests:
`(tensors) -> Recognised | None`. A file that has our own keys already is recognised without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from zoo_core.catalog import CatalogEntry, find, load_object, models
from zoo_core.errors import WeightsError, ZooError
from zoo_core.weights.build import expected
from zoo_core.weights.files import SHOWN, Fit, compare, is_pickle, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    Recogniser: TypeAlias = Callable[[dict[str, Tensor]], "Recognised | None"]

# where trainers put the state dict, in the order of preference: an average of the weights beats the last weights
NESTS = ("params_ema", "params", "state_dict", "model")


@dataclass(frozen=True)
class Recognised:
    """What a checkpoint is.

    Args:
        model_id: the model of ours that it fits; "" for a network that is known and that no model of ours reads.
        tensors: with our keys; they fit the model exactly, unless `missing` names what they lack.
        what: what it is in a few words, such as `IMDN x4, official checkpoint`.
        missing: keys of the checkpoint's own naming that should be there and are not; if any, this is a near miss.
        read_as: how the file was opened, such as `state dict in 'params_ema'`; filled in by `recognise_file`.
    """

    model_id: str
    tensors: dict[str, Tensor]
    what: str
    missing: tuple[str, ...] = ()
    read_as: str = ""


def recognise_file(path: Path, *, from_pickle: bool = False) -> Recognised:
    """Open a checkpoint and say what it is.

    Args:
        path: safetensors, or with `from_pickle` a file of torch.save.
        from_pickle: whether a pickle may be read (tensors and plain containers only; code in it is never run).

    Raises:
        WeightsError: unreadable, a pickle without leave, or of no installed model: then the nearest one and the first
            missing keys are named.
    """
    if from_pickle and _is_pickle_file(path):
        content, form = _read_pickle(path), "pickle"
    else:
        content, form = dict(read_tensors(path)[0]), "safetensors"
    tensors, nest = unwrapped(content, origin=str(path))
    return replace(recognise(tensors, origin=str(path)), read_as=f"{form}, {nest}")


def recognise(tensors: dict[str, Tensor], *, origin: str) -> Recognised:
    """Say of which installed model these tensors are; asks each package's recogniser, then compares with our own keys.

    Args:
        tensors: a bare state dict, as `unwrapped` returns it.
        origin: file name for messages.

    Raises:
        WeightsError: of none; names the nearest model and the first missing keys.
    """
    entries = models()
    near_misses: list[tuple[float, str]] = []
    strangers: list[str] = []
    for target in sorted({e.manifest.entry.convert for e in entries if e.manifest.entry.convert}):
        recogniser: Recogniser = load_object(target)
        found = recogniser(tensors)
        if found is None:
            continue
        if not found.model_id:
            strangers.append(found.what)
            continue
        if not found.missing:
            _must_fit(found, target)
            return found
        share = len(found.tensors) / (len(found.tensors) + len(found.missing))
        near_misses.append((share, f"{found.what} ({found.model_id}), but it lacks {_named(found.missing)}"))
    for entry in entries:
        fit = _fit(entry, tensors)
        if fit is None:
            continue
        if fit.exact:
            return Recognised(entry.manifest.id, tensors, f"{entry.manifest.id}, our own keys")
        near_misses.append((fit.likeness, f"{entry.manifest.id}: {fit}"))
    if strangers:
        raise WeightsError(f"{origin} is {strangers[0]}: no installed model reads it.", "`zoo list` shows the models.")
    raise _unknown(tensors, near_misses, origin)


def unwrapped(content: Mapping[str, Any], *, origin: str) -> tuple[dict[str, Tensor], str]:
    """Find the state dict in what a file holds.

    Known: a plain state dict; one in a dictionary under `params_ema`, `params`, `state_dict` or `model`; one whose keys
    all start with `params_ema.` or `params.`; `module.` before every key, as DataParallel leaves it.

    Returns:
        the state dict, and how it was found.

    Raises:
        WeightsError: there is none; names the keys that are there.
    """
    import torch

    where = "state dict"
    nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
    if nest is not None:
        content, where = content[nest], f"state dict in {nest!r}"
    tensors = {k: value for k, value in content.items() if isinstance(k, str) and isinstance(value, torch.Tensor)}
    if not tensors or len(tensors) < len(content):
        others = [str(key) for key in content if key not in tensors]
        held = f"{_named(others)} besides {len(tensors)} tensors" if others else "nothing"
        raise WeightsError(
            f"{origin} holds no plain state dict: {held}.", "Save it as torch.save(model.state_dict(), FILE)."
        )
    # `params.` alone is a nest only if nothing else is there; `model.` may well be part of a name and stays
    for name in ("params_ema", "params"):
        if all(key.startswith(("params_ema.", "params.")) for key in tensors):
            inner = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            if inner:
                tensors, where = inner, f"{where} with keys in {name!r}"
                break
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
        where += ", 'module.' taken off"
    return tensors, where


def _read_pickle(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        # weights_only refuses everything but tensors and plain containers; what it warns of is of no use to the user
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors and plain containers, or is damaged: it was not read.",
            "Where it was made, save the bare state dict: torch.save(model.state_dict(), FILE).",
        ) from error
    # on damaged bytes the reader stumbles in many ways, all of which mean the same
    except Exception as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is damaged ({detail}).", "Fetch it again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, no dictionary of tensors.")
    return content


def _is_pickle_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_pickle(file.read(9))
    except OSError:
        return False  # read_tensors says what is wrong


def _must_fit(found: Recognised, target: str) -> None:
    fit = compare(expected(find(found.model_id)), found.tensors)
    if not fit.exact:
        raise ZooError(f"{target} took this for {found.model_id}, which it does not fit: {fit}.", "Please report this.")


def _fit(entry: CatalogEntry, tensors: Mapping[str, Tensor]) -> Fit | None:
    try:
        return compare(expected(entry), tensors)
    # whatever keeps one package's model from being constructed, the others can still be compared
    except Exception:
        return None


def _unknown(tensors: Mapping[str, Tensor], near_misses: list[tuple[float, str]], origin: str) -> WeightsError:
    message = f"{origin} is of no installed model: {len(tensors)} tensors, first {_named(tuple(tensors))}."
    share, nearest = max(near_misses, default=(0.0, ""))
    if share == 0:
        known = ", ".join(entry.manifest.id for entry in models()) or "none"
        return WeightsError(message, f"No key agrees with any of the installed models ({known}).")
    return WeightsError(f"{message} Nearest, {share:.0%} of the keys: {nearest}.", "Is it of another size or scale?")


def _named(keys: tuple[str, ...] | list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")

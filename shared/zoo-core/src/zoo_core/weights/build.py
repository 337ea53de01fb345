"""From a manifest to a module that is ready to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.catalog import CatalogEntry, find, load_object
from zoo_core.errors import UsageError, WeightsError
from zoo_core.weights.files import load_strict, read_tensors
from zoo_core.weights.find import FoundWeights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CONFIG = "zoo.config"  # in a weight file's metadata: JSON of the constructor arguments that differ from the manifest's


def construct(entry: CatalogEntry, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Construct the model of a manifest with fresh weights, on the default device.

    Args:
        entry: the model.
        config: arguments that replace those of the manifest, or come to them.

    Raises:
        UsageError: the constructor refuses the config.
    """
    make: Any = load_object(entry.manifest.entry.model)
    try:
        module: nn.Module = make(**{**entry.manifest.config, **(config or {})})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{entry.manifest.id}: {entry.manifest.entry.model} refuses the config of the manifest ({error}).",
            f"The package {entry.package} is broken: install it again.",
        ) from error
    return module


def locate(name: str | Path) -> tuple[CatalogEntry, FoundWeights]:
    """Return the model and the weights that a name means.

    Args:
        name: a model id, whose weights are found as always; or a safetensors file (a name with a suffix), whose model
            is seen from its keys and shapes.

    Raises:
        UsageError: no such model.
        WeightsError: it has no weights, or they are of no installed model.
    """
    from zoo_core.weights.convert import recognise_file
    from zoo_core.weights.find import find as find_weights

    path = Path(name)
    if path.suffix:
        return find(recognise_file(path).model_id), FoundWeights(path, "path", None, "you named it")
    entry = find(str(name))
    return entry, find_weights(entry)


def build(entry: CatalogEntry, found: FoundWeights | None, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Construct a model, load its weights strictly, and move it.

    Args:
        entry: the model.
        found: its weights; None leaves the fresh ones of the constructor.
        device: where it runs.
        dtype: of its floating-point weights; they are cast once, from what the file holds by way of float32.

    Returns:
        the module, in evaluation mode.

    Raises:
        WeightsError: the file is unreadable or does not fit; the first keys are named.
    """
    if found is None:
        return construct(entry).to(device=device, dtype=dtype).eval()
    tensors, facts = read_tensors(found.path)
    config = config_in(facts, what=str(found.path))
    try:
        module = construct(entry, config)
    except UsageError as error:
        if not config:
            raise
        raise WeightsError(
            f"{found.path}: {entry.manifest.id} cannot be constructed with the config in this file.", error.message
        ) from error
    load_strict(module, tensors, what=str(found.path))
    return module.to(device=device, dtype=dtype).eval()


def config_in(facts: Mapping[str, str], *, what: str) -> dict[str, Any]:
    """Return the constructor arguments that a weight file brings: data for the model that the user names, no code.

    Raises:
        WeightsError: they are no JSON object.
    """
    try:
        config = json.loads(facts.get(CONFIG, "{}"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise WeightsError(f"{what}: {CONFIG} in its metadata is no JSON object.", "Get the file from its maker again.")
    return config


def expected(entry: CatalogEntry) -> dict[str, Tensor]:
    """Return the state dict of a model as meta tensors: keys, shapes and types without memory or random numbers."""
    import torch

    with torch.device("meta"):
        return construct(entry).state_dict()

"""Fingerprints: what a teacher is, as a hash of everything that decides its outputs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError


def of_state(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers: names, types, shapes and bytes, as 64 hex digits.

    Buffers that are not saved count too: they decide the output like any other.
    """
    digest = hashlib.sha256()
    named = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(named, key=lambda item: item[0]):
        _add(digest, f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def of_texts(texts: Iterable[str]) -> str:
    """Return the sha256 of some texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        _add(digest, text)
    return digest.hexdigest()


def told(value: Any) -> str:
    """Return a text that says all of a value or function, the same in every process.

    Raises:
        UsageError: it is a function without a name of its own.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(f"{f.name}={told(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__module__}.{type(value).__qualname__}({fields})"
    if not callable(value):
        return repr(value)
    name = getattr(value, "__qualname__", "")
    if not name or "<" in name:
        raise UsageError(
            f"{value!r} cannot be told in a fingerprint.",
            "Use a function of a module, or a frozen dataclass with __call__.",
        )
    return f"{getattr(value, '__module__', '')}.{name}"


def _add(digest: hashlib._Hash, text: str) -> None:
    data = text.encode()
    digest.update(len(data).to_bytes(8, "little") + data)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""

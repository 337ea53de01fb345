"""Fingerprints: what a teacher is, as a hash of everything that decides its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


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


def _add(digest: hashlib._Hash, text: str) -> None:
    data = text.encode()
    digest.update(len(data).to_bytes(8, "little") + data)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""

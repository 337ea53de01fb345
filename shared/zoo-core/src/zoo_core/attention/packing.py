"""Padding and documents as kernels for packed sequences take them: tokens one behind the other, and where each ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core.attention.atoms import Causal, Document, Padding
from zoo_core.attention.masks import And, Mask


class Packed(NamedTuple):
    """Which tokens of (B, N) are there, and where sequences begin and end among them.

    Args:
        places: (T,) int64, of the tokens in the batch as one row: `x.flatten(0, 1)[places]` packs (B, N, ...).
        offsets: (S + 1,) int32: sequence s has the packed tokens from offsets[s] to offsets[s + 1]; none is empty.
        longest: tokens of the longest one.
        causal: whether each is causal.
    """

    places: Tensor
    offsets: Tensor
    longest: int
    causal: bool


def to_varlen(mask: Mask, batch: int, tokens: int, *, device: torch.device | str = "cpu") -> Packed:
    """Return what a mask of `Padding`, `Document` and `Causal`, joined by `&`, leaves.

    Args:
        mask: of as many queries as keys.
        batch: B.
        tokens: N.
        device: where the tensors go.

    Raises:
        ValueError: another mask; a document in two pieces.
    """
    atoms = _atoms(mask)
    kinds = [type(atom) for atom in atoms]
    if len(set(kinds)) < len(kinds) or not all(
        isinstance(atom, Padding | Document) or atom == Causal() for atom in atoms
    ):
        raise ValueError(f"{mask} has no packed form: join one Padding, one Document and Causal() by & at most")
    ids, lengths = torch.zeros(batch, tokens), torch.full((batch,), tokens)
    for atom in atoms:
        if isinstance(atom, Padding):
            lengths = atom.lengths.on(torch.device("cpu"))
        elif isinstance(atom, Document):
            ids = atom.ids.on(torch.device("cpu")).expand(batch, tokens)
    kept = torch.arange(tokens) < lengths[:, None]
    begins = torch.ones_like(kept)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    for row in range(batch):
        if len(set(ids[row][kept[row]].tolist())) != int((begins & kept)[row].sum()):
            raise ValueError(f"a document of example {row} lies in two pieces: sort its tokens first")
    places = kept.flatten().nonzero().flatten()
    starts = begins.flatten()[places].nonzero().flatten()
    offsets = torch.cat([starts, starts.new_tensor([len(places)])]).to(torch.int32)
    longest = int(offsets.diff().max()) if len(places) else 0
    return Packed(places.to(device), offsets.to(device), longest, Causal in kinds)


def _atoms(mask: Mask) -> list[Mask]:
    return [*_atoms(mask.left), *_atoms(mask.right)] if isinstance(mask, And) else [mask]

"""Packed sequences: what a kernel computes sequence by sequence is what the mask means."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from zoo_core.attention import Causal, Document, Padding, Sink, Window, attend
from zoo_core.attention.masks import Mask
from zoo_core.attention.packing import to_varlen

DOCUMENTS = Document([[0] * 4 + [3] * 1 + [2] * 7, [5] * 12])


@pytest.mark.parametrize(
    ("mask", "lengths"),
    [
        (Padding([12, 5]), [12, 5]),
        (Padding([0, 7]), [7]),
        (Padding([0, 0]), []),
        (DOCUMENTS, [4, 1, 7, 12]),
        (DOCUMENTS & Causal(), [4, 1, 7, 12]),
        (Document([1] * 6 + [0] * 6), [6, 6, 6, 6]),
        (Causal() & DOCUMENTS & Padding([9, 3]), [4, 1, 4, 3]),
        (Causal(), [12, 12]),
    ],
    ids=str,
)
def test_sequence_by_sequence_is_the_mask(mask: Mask, lengths: list[int]) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 12, 8).unbind(0)
    whole = attend(q, k, v, mask=mask).out.transpose(1, 2).flatten(0, 1)
    packed = to_varlen(mask, 2, 12)
    assert packed.offsets.dtype == torch.int32
    assert packed.offsets.diff().tolist() == lengths
    assert packed.longest == max(lengths, default=0)
    rows = [x.transpose(1, 2).flatten(0, 1)[packed.places] for x in (q, k, v)]
    for begin, end in zip(packed.offsets[:-1], packed.offsets[1:], strict=True):
        alone = [x[begin:end].transpose(0, 1) for x in rows]
        out = scaled_dot_product_attention(*alone, is_causal=packed.causal).transpose(0, 1)
        torch.testing.assert_close(out, whole[packed.places[begin:end]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Window(3, 0) & Padding([12, 5]), "no packed form"),
        (Causal(1), "no packed form"),
        (Padding([12, 5]) | Sink(2), "no packed form"),
        (Padding([12, 5]) & Padding([11, 5]), "no packed form"),
        (Document([0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), "example 0 lies in two pieces"),
    ],
)
def test_other_masks_are_refused(mask: Mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_varlen(mask, 2, 12)

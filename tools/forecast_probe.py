"""How well a small reader tells events from the states of frozen MiniLM, layer by layer, in phrases that it never saw.

    uv run tools/forecast_probe.py [--texts 6000] [--layers 0 1 2 3 4 6]      some minutes on two cores

The reader is like the decoder of Aurora small: queries that look at a text's states, three layers. It learns phrases
of the part `learnt` and is asked about those of `validation`; the part `test` is not touched. Printed are shares
of right answers for the kind of event and its direction, and the mean absolute error of the onset in points.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from zoo_forecast import minilm
from zoo_forecast.events import KINDS, Event, make_event

WIDTH, HEADS, LAYERS, QUERIES = 128, 4, 3, 3
BATCH, EPOCHS, RATE = 128, 6, 1e-3
ASKED = 1200  # texts that are asked about


class Said(NamedTuple):
    """What texts say: kind (N,), direction (N,) of 0 down, 1 up, 2 nothing happens, and onset (N,) in points."""

    kind: Tensor
    direction: Tensor
    onset: Tensor

    def rows(self, which: Tensor) -> Said:
        """Return some of them."""
        return Said(*(column[which] for column in self))


class Reader(nn.Module):
    """Queries that look at states (B, T, d) and say kind, direction and onset."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(minilm.WIDTH, WIDTH)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, WIDTH) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.kind, self.direction, self.onset = (nn.Linear(WIDTH, size) for size in (len(KINDS), 3, 1))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, d) -> (B, kinds), (B, 3), (B,)."""
        behind = ~states.any(-1)
        memory, asked = self.read(states.float()), self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            asked = layer(asked, memory, memory_key_padding_mask=behind)
        kind, direction, onset = asked.unbind(1)
        return self.kind(kind), self.direction(direction), self.onset(onset)[:, 0]


def told(count: int, part: str) -> list[Event]:
    """Return events of which texts tell."""
    found, index = [], 0
    while len(found) < count:
        event = make_event(0, index, part=part)  # type: ignore[arg-type]
        index += 1
        if event.told:
            found.append(event)
    return found


def said(events: list[Event]) -> Said:
    """Return what their texts say."""
    direction = [2 if not event.happens else int(event.size > 0) for event in events]
    return Said(
        torch.tensor([event.kind for event in events]),
        torch.tensor(direction),
        torch.tensor([float(event.onset) for event in events]),
    )


def learn(states: Tensor, truth: Said) -> Reader:
    """Train a reader; always the same one."""
    torch.manual_seed(0)
    reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(states) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(states)).split(BATCH):
            kind, direction, onset = reader(states[rows])
            wanted = truth.rows(rows)
            loss = cross_entropy(kind, wanted.kind) + cross_entropy(direction, wanted.direction)
            loss = loss + smooth_l1_loss(onset, wanted.onset) / 3
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


@torch.inference_mode()
def asked(reader: Reader, states: Tensor, truth: Said) -> list[str]:
    """Return the row of the table: right kinds, right directions, error of the onset."""
    kind, direction, onset = reader(states)
    right = [(given.argmax(1) == true).float().mean() for given, true in ((kind, truth[0]), (direction, truth[1]))]
    return [f"{float(share):.2f}" for share in right] + [f"{float((onset - truth.onset).abs().mean()):.2f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=6000, help="to learn from (default 6000)")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4, 6], help="of MiniLM (default 1 2 3 4 6)")
    parser.add_argument("--tower", type=Path, help="MiniLM's weights; by default they are found")
    options = parser.parse_args()
    parts = {"learnt": told(options.texts, "learnt"), "validation": told(ASKED, "validation")}
    print("| states behind layer | kind, learnt | direction | onset | kind, unseen | direction | onset |")
    print("|---" * 7 + "|")
    for layers in options.layers:
        tower = minilm.open_tower(options.tower, layers=layers, device=torch.device("cpu"))
        states = {part: minilm.read(tower, [event.text for event in events]) for part, events in parts.items()}
        reader = learn(states["learnt"], said(parts["learnt"]))
        rows = [asked(reader, states[part][:ASKED], said(parts[part][:ASKED])) for part in parts]
        print(f"| {layers} | {' | '.join(rows[0] + rows[1])} |", flush=True)


if __name__ == "__main__":
    main()

"""What relations add: small students of a masked-character network, with and without MiniLM's terms, at equal steps.

    uv run tools/distill_minilm.py                  three seeds of a small teacher (some minutes on one thread)
    uv run tools/distill_minilm.py --large          the sizes of the specification; wants a GPU
    uv run tools/distill_minilm.py --write          also puts the table into docs/distill.md

The text is that of the pack htr/text (ZOO_PACKS), its last tenth held out. 15 % of the characters are hidden. What a
student has learnt is measured by a linear probe: its last features, frozen, and a new linear layer that names the
hidden characters.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.attention import Attention, RoPE
from zoo_core.distill import Objective, Student, Teacher, Term
from zoo_core.distill.losses.logits import cross_entropy, kl
from zoo_core.distill.minilm import minilm, points
from zoo_core.errors import InputError
from zoo_core.io.packs import packs_root
from zoo_core.probe import Point

PAGE = Path(__file__).resolve().parents[1] / "docs/distill.md"
HIDDEN = 0  # the number of the character that hides another
SHARE = 0.15


@dataclass(frozen=True)
class Size:
    """Layers and width of a network."""

    layers: int
    width: int


@dataclass(frozen=True)
class Study:
    """What is trained, on how much."""

    teacher: Size = Size(4, 96)
    student: Size = Size(2, 48)
    heads: int = 4
    window: int = 64
    batch: int = 32
    teacher_steps: int = 1200
    steps: int = 600
    probe_steps: int = 150
    rate: float = 3e-3

    @property
    def assistant(self) -> Size:
        """As deep as the teacher, as wide as the student."""
        return Size(self.teacher.layers, self.student.width)


LARGE = Study(Size(8, 256), Size(4, 128), window=128, batch=64, teacher_steps=4000, steps=1500, rate=1e-3)


class Text:
    """Windows of characters, some of them hidden."""

    def __init__(self, study: Study, device: torch.device) -> None:
        root = packs_root()
        path = (root or Path()) / "htr" / "text" / "en.txt"
        if root is None or not path.is_file():
            raise InputError("The text pack htr/text is not here.", "Set ZOO_PACKS.")
        text = path.read_text(encoding="utf-8").lower()
        often = sorted(c for c in set(text) if text.count(c) >= 100)
        numbers = {c: n for n, c in enumerate(often, start=2)}  # 1: any other
        codes = torch.tensor([numbers.get(c, 1) for c in text], device=device)
        cut = len(codes) * 9 // 10
        self.parts, self.study = {"train": codes[:cut], "held out": codes[cut:]}, study
        self.vocabulary = len(often) + 2

    def batch(self, part: str, seed: int, step: int) -> dict[str, Tensor]:
        """Return tokens, labels, and which are hidden, all (B, N)."""
        codes, window = self.parts[part], self.study.window
        draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
        starts = torch.randint(0, len(codes) - window, (self.study.batch, 1), generator=draws)
        hidden = torch.rand(self.study.batch, window, generator=draws) < SHARE
        hidden[:, 0] = True  # none is empty
        labels = codes[(starts + torch.arange(window)).to(codes.device)]
        hidden = hidden.to(codes.device)
        return {"tokens": labels.masked_fill(hidden, HIDDEN), "label": labels, "hidden": hidden}


class Block(nn.Module):
    """Attention and two linear layers, normed before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), Attention(width, heads, position=RoPE())
        self.rest = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(self.first(x)).x
        return x + self.rest(x)


class Network(nn.Module):
    """Tokens (B, N) -> logits (B, N, V) of the characters."""

    def __init__(self, size: Size, study: Study, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size.width)
        self.layers = nn.Sequential(*(Block(size.width, study.heads) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor) -> Tensor:
        """Return the last (B, N, D)."""
        return self.norm(self.layers(self.embed(tokens)))

    @property
    def last(self) -> str:
        """Path of the last attention."""
        return f"layers.{len(self.layers) - 1}.attention"


def labelled(logits: Tensor, batch: Mapping[str, Tensor], *, mask: Tensor) -> Tensor:
    """Cross-entropy of the hidden characters."""
    return cross_entropy(logits, batch["label"], mask=mask)


LABELS = Term("labels", labelled, "out", mask="hidden")
LOGITS = Term("kd", kl, "out", "logits", mask="hidden", constants={"tau": 2.0})


def learn(
    network: Network, terms: Sequence[Term], text: Text, seed: int, steps: int, *, teacher: Network | None = None
) -> Network:
    """Train a network on terms, some against a teacher."""
    objective = Objective(terms)
    student = Student(network, points(network.last), objective)
    taught = None
    if teacher is not None:
        taught = Teacher(teacher, {"logits": Point(""), **points(teacher.last)}, inputs="tokens")
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = text.study.rate * min(1, (step + 1) / 50, 2 * (1 - step / steps))
        batch: Any = text.batch("train", seed, step)
        loss, _ = objective(student(batch["tokens"]), None if taught is None else taught(batch), batch, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    student.remove()
    return network


def probe(network: Network, text: Text, seed: int) -> float:
    """Return how many of the held-out text's hidden characters a linear layer names from the frozen features."""
    steps = text.study.probe_steps

    def features(part: str, step: int) -> tuple[Tensor, Tensor]:
        batch = text.batch(part, 10_000 + seed, step)
        with torch.no_grad():
            x = network.features(batch["tokens"])
        return x[batch["hidden"]], batch["label"][batch["hidden"]]

    layer = nn.Linear(network.head.in_features, text.vocabulary, device=network.head.weight.device)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    for step in range(steps):
        x, label = features("train", step)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(x), label).backward()
        optimizer.step()
    right = [(layer(x).argmax(-1) == label).float() for x, label in (features("held out", i) for i in range(20))]
    return float(torch.cat(right).mean())


def study_of(study: Study, seed: int, device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield rows and their probes' accuracy, for one seed of everything."""
    text = Text(study, device)

    def fresh(size: Size) -> Network:
        torch.manual_seed(seed)
        return Network(size, study, text.vocabulary).to(device)

    teacher = learn(fresh(study.teacher), [LABELS], text, 100 + seed, study.teacher_steps)
    yield "the teacher", probe(teacher, text, seed)
    relations = [LOGITS, *minilm("v1")]
    yield "labels alone", probe(learn(fresh(study.student), [LABELS], text, seed, study.steps), text, seed)
    for name, terms in (("logits", [LOGITS]), ("logits and relations", relations)):
        taught = learn(fresh(study.student), terms, text, seed, study.steps, teacher=teacher)
        yield name, probe(taught, text, seed)
    assistant = learn(fresh(study.assistant), relations, text, 200 + seed, study.steps, teacher=teacher)
    yield "an assistant", probe(assistant, text, seed)
    taught = learn(fresh(study.student), relations, text, seed, study.steps, teacher=assistant)
    yield "logits and relations of the assistant", probe(taught, text, seed)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    study = LARGE if arguments.large else Study()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for name, accuracy in study_of(study, seed, device):
            found.setdefault(name, []).append(accuracy)
            print(f"seed {seed}: {name}: {accuracy:.2%}", file=sys.stderr, flush=True)
    made = table(found)
    print(made)
    if arguments.write:
        text = f"<!-- made: minilm -->\n{made}\n<!-- end: minilm -->"
        page = PAGE.read_text(encoding="utf-8")
        page = re.sub(r"<!-- made: minilm -->.*?<!-- end: minilm -->", lambda _: text, page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")
    return 0


def table(found: Mapping[str, Sequence[float]]) -> str:
    """Return the table: each seed's accuracy, and the mean difference to a student of logits alone."""
    lines = ["| learnt from | probe, by seed | mean, less logits alone |", "|---|---|--:|"]
    for name, values in found.items():
        apart = [100 * (mine - other) for mine, other in zip(values, found["logits"], strict=True)]
        spread = f" ± {statistics.stdev(apart):.1f}" if len(apart) > 1 else ""
        shown = "" if name in ("the teacher", "logits") else f"{statistics.mean(apart):+.1f}{spread} points"
        lines.append(f"| {name} | {', '.join(f'{value:.1%}' for value in values)} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

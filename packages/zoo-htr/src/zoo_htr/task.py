"""What the training loop needs to know of handwriting: the recipe's keys, batches, losses, optimiser, evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from zoo_core.train import TrainRecipe, decay_groups, warm_cosine
from zoo_htr.augment import Choice, Rendered, render
from zoo_htr.data import Line, LineStore, fingerprint, part_of, usable
from zoo_htr.greedy import greedy
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.learning import Seen, aligned, lesson
from zoo_htr.normalise import standardise
from zoo_htr.recognise import LineReader
from zoo_htr.schedule import Batch, Phases, Schedule

NETWORK = "module.network."  # in the state dict of what is trained: a student, which holds a Training
NO_DECAY = ("rho", "mu", "gain")  # and everything of one dimension


class Recipe(TrainRecipe):
    """The keys of an HTR-JAND recipe beside those of every recipe."""

    packs: tuple[str, ...] = Field(description="lines to learn: paths, or names below ZOO_PACKS; none: bar codes")
    synthetic: tuple[str, ...] = Field((), description="packs of rendered lines (see zoo_htr.synth); may be none")
    replay: tuple[str, ...] = Field((), description="packs of what `init` was trained on, as far as they are here")
    epochs: float | None = Field(None, gt=0, description="sets steps: so often all lines of `packs`")
    learning_rate: float = Field(1.5e-3, gt=0, description="highest rate of AdamW")
    final_share: float = Field(0.01, ge=0, le=1, description="of that rate at the last step; a cosine leads there")
    warmup_steps: int = Field(1000, ge=0, description="steps of linear rise at the start")
    weight_decay: float = Field(0.02, ge=0, description="not of biases, norms, slopes and the decay's parameters")
    shortcut_weight: float = Field(0.1, ge=0, description="of CTC on the convolutions' features; 0: no such head")
    branches: Literal["both", "mhsa", "proxima"] = Field("both", description="which attentions the network has")
    synthetic_phase: float = Field(0.0, ge=0, le=1, description="S0: share of the steps on rendered lines alone")
    mixed_phase: float = Field(0.0, ge=0, le=1, description="S1: share of the steps with 50 to 15 % rendered lines")
    synthetic_rest: float = Field(0.0, ge=0, le=1, description="S2: share of the samples that stay rendered ones")
    curriculum: bool = Field(True, description="S1 begins with the easiest fifth of the lines")
    replay_share: float = Field(0.3, ge=0, le=1, description="of the real samples, if there is anything to replay")
    augment: bool = Field(True, description="change the lines: geometry, ink, paper, noise, gaps")
    teacher: Path | None = Field(None, description="model id or safetensors file of a network to learn from as well")
    teachers: tuple[Path, ...] = Field((), description="instead: one for each part, which has not learnt that part")
    parts: int = Field(3, ge=2, description="of the lines, by a hash of their names")
    left_out: int | None = Field(None, ge=0, description="part that is not learnt, to teach it later; none: learn all")
    kd: float = Field(
        0.5, ge=0, le=1, description="share of the loss that is the divergence from the teacher, at first"
    )
    kd_end: float = Field(0.8, ge=0, le=1, description="the same at the last step; a line leads there")
    kd_tau: float = Field(2.0, gt=0, description="temperature of that divergence")
    kd_frames: Literal["uniform", "no_blank", "neighbourhood", "soft"] = Field(
        "neighbourhood", description="which frames count in it: see zoo_core.distill.losses.ctc"
    )
    kd_reach: int = Field(2, ge=0, description="frames on either side of a neighbourhood")
    kd_features: float = Field(0.1, ge=0, description="weight of the distance between the last blocks' frames")
    kd_guide: float = Field(0.0, ge=0, description="weight of the cross-entropy against the teacher's alignment")
    kd_guide_until: float = Field(0.2, ge=0, le=1, description="share of the steps after which that ends")
    freeze_statistics: bool = Field(False, description="keep the batch norms as they are: for few lines")


class HTRTask:
    """One training problem for `zoo_core.train.fit`.

    Args:
        network: on the device; its alphabet has every character of the lines.
        recipe: all keys.
        device: where the lines live.
        real: lines to learn.
        validation: lines to choose by.
        synthetic: rendered lines.
        replay: lines that the network has learnt before.
        changed: constructor arguments of the network that are not the manifest's.

    Raises:
        InputError: no usable line.
    """

    def __init__(
        self,
        network: HTRJAND,
        recipe: Recipe,
        device: torch.device,
        *,
        real: list[Line],
        validation: list[Line],
        synthetic: list[Line] = (),  # type: ignore[assignment]
        replay: list[Line] = (),  # type: ignore[assignment]
        changed: dict[str, Any] | None = None,
    ) -> None:
        if device.type == "cuda":  # what its convolutions are fastest in
            network.to(memory_format=torch.channels_last)
        taught = lesson(network, recipe, device)
        self.module: nn.Module = taught.student.to(device)
        self.objective, self.teacher = taught.objective, taught.teacher
        self.network = network
        self.recipe, self.device, self.validation, self.changed = recipe, device, validation, changed or {}
        alphabet = network.alphabet
        groups = [usable(list(lines), alphabet) if lines else [] for lines in (real, synthetic, replay)]
        self.store = LineStore([line for group in groups for line in group], alphabet, device)
        phases = Phases(
            synthetic=recipe.synthetic_phase,
            mixed=recipe.mixed_phase,
            rest=recipe.synthetic_rest,
            curriculum=recipe.curriculum,
            replay=recipe.replay_share,
        )
        self._part = torch.tensor([part_of(name, recipe.parts) for name in self.store.names], device=device)
        self.schedule = Schedule(
            self.store,
            *groups,
            phases=phases,
            steps=recipe.steps,
            batch=recipe.batch,
            seed=recipe.seed,
            augment=recipe.augment,
        )
        self._fingerprint = hashlib.sha256(
            " ".join(fingerprint(list(lines)) for lines in (*groups, validation)).encode()
        ).hexdigest()
        self._render = torch.compile(render, dynamic=True) if recipe.compile else render

    # -- what the loop asks --------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Identify all lines."""
        return self._fingerprint

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's tensors, without the second head and adapters."""
        return {key.removeprefix(NETWORK): tensor for key, tensor in tensors.items() if key.startswith(NETWORK)}

    def parts(self) -> list[nn.Module]:
        """Return what is compiled: batches come in many widths."""
        return self.network.parts()

    def identities(self) -> dict[str, str]:
        """Identify the teacher."""
        return {} if self.teacher is None else self.teacher.identities()

    def check_unchanged(self) -> None:
        """Raise if the teacher has moved."""
        if self.teacher is not None:
            self.teacher.check_unchanged()

    def config(self) -> dict[str, Any]:
        """Return what differs from the manifest: the alphabet, if it has grown."""
        return self.changed

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; no decay where it would pull at a scale, a shift or a distance."""
        groups = decay_groups(self.module, self.recipe.weight_decay, free=NO_DECAY)
        return torch.optim.AdamW(
            groups, lr=self.recipe.learning_rate, betas=(0.9, 0.98), fused=self.device.type == "cuda"
        )

    def learning_rate(self, step: int) -> float:
        """Linear rise, then half a cosine down."""
        recipe = self.recipe
        highest, lowest = recipe.learning_rate, recipe.learning_rate * recipe.final_share
        return warm_cosine(step, steps=recipe.steps, warmup_steps=recipe.warmup_steps, highest=highest, lowest=lowest)

    def batch(self, step: int) -> Batch:
        """Which lines, and what happens to them; the device makes them itself."""
        return self.schedule.draw(step)

    def describe(self, step: int) -> str:
        """Name the lines of a batch."""
        return self.schedule.describe(step)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What `zoo_htr.learning.lesson` says of the lines of a batch: averaged over lines, whatever their length."""
        made = self.rendered(batch)
        lines = standardise(made.grey, made.widths)
        # of two lines in one picture the first decides
        seen = Seen.of(lines, made.widths, made.labels, made.lengths, self._part[batch.choice.line])
        theirs = None if self.teacher is None else self.teacher(seen)
        if theirs is not None and self.objective.weights(batch.step).get("guide"):
            seen = aligned(seen, theirs.at["logits"])
        return self.objective(self.module(seen.lines, seen.widths), theirs, seen, batch.step)

    @torch.no_grad()
    def rendered(self, batch: Batch) -> Rendered:
        """Make the lines of a batch."""
        made: Rendered = self._render(self.store, Choice(*batch.choice), batch.parameters, batch.canvas.shape[1])
        return made

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Character error rate of greedy reading over the validation lines: edits over reference characters, micro."""
        network = module.get_submodule(NETWORK.rstrip("."))
        assert isinstance(network, HTRJAND)  # noqa: S101 (for mypy)
        reader = LineReader(network, device=self.device, pixels=1 << (17 if self.device.type == "cuda" else 14))
        edits: dict[str, int] = {}
        characters: dict[str, int] = {}
        for line, log_probs in zip(self.validation, reader.log_probs([v.pixels for v in self.validation]), strict=True):
            read = greedy(log_probs, network.alphabet).text
            for corpus in ("", line.corpus):
                edits[corpus] = edits.get(corpus, 0) + Levenshtein.distance(read, line.text)
                characters[corpus] = characters.get(corpus, 0) + len(line.text)
        rates = {corpus: edits[corpus] / max(1, characters[corpus]) for corpus in edits}
        return {f"cer_{corpus}" if corpus else "cer": rate for corpus, rate in sorted(rates.items())}

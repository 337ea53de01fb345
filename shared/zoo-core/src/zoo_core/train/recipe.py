"""What every training run is told; a package adds its own keys in a subclass. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class TrainRecipe(BaseModel):
    """The keys that the loop itself reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    may_change: ClassVar[frozenset[str]] = frozenset(
        {
            "save_every", "eval_every", "log_every", "keep", "time_limit_minutes", "tensorboard",
            "workers", "worker_kind", "device", "compile", "graph", "smoke",
        }
    )  # fmt: skip
    """Keys that may differ when a run is resumed: they say what is written, when and how fast, not what is computed."""

    seed: int = Field(0, ge=0, description="of the weights' start, the order of the data and every random draw")
    steps: int = Field(gt=0, description="optimiser steps of the whole run")
    batch: int = Field(gt=0, description="samples a step, over all processes")
    precision: Precision = Field(
        "fp32", description="bf16 and fp16 are autocast over fp32 weights; tf32 concerns CUDA alone"
    )
    init: Path | None = Field(None, description="weights to start from; the package says which keys it takes")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="of the averaged weights that are evaluated and published; 0: off"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of all gradients together")

    compile: bool = Field(False, description="torch.compile the module")
    graph: bool = Field(
        False, description="replay forward and backward as one CUDA graph for each shape of batch; one device"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if there is a device")
    workers: int = Field(
        0, ge=0, description="processes or threads that make batches ahead; 0: the loop does, one ahead"
    )
    worker_kind: Literal["process", "thread"] = Field("process", description="what the workers are")

    save_every: int = Field(1000, gt=0, description="steps")
    eval_every: int = Field(1000, gt=0, description="steps")
    log_every: int = Field(100, gt=0, description="steps; also how late a NaN may be noticed")
    keep: int = Field(2, gt=0, description="newest checkpoints that stay")
    time_limit_minutes: float | None = Field(None, gt=0, description="save and stop after so long; resume goes on")
    tensorboard: bool = Field(False, description="also write TensorBoard events (needs tensorboard)")
    smoke: dict[str, Any] = Field(
        default_factory=dict, description="values of these keys under --smoke: a run of seconds"
    )


class CachingRecipe(TrainRecipe):
    """Of a package that can keep what a teacher gives: `stage=cache` writes it down beforehand, once for many runs."""

    may_change: ClassVar[frozenset[str]] = TrainRecipe.may_change | {"stage"}

    stage: Literal["train", "cache"] = Field(
        "train", description="cache: only write down the teacher's outputs that are not there yet"
    )

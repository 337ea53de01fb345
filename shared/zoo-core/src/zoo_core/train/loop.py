"""The training loop: `fit` trains a task by a recipe, saves all of its state, and goes on where a run was stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import nn

from zoo_core.config import dump_recipe, recipe_hash
from zoo_core.errors import InterruptedRunError, UsageError
from zoo_core.io.atomic import check_writable, whole
from zoo_core.nn.number_format import number_format
from zoo_core.nn.structure import map_tensors
from zoo_core.train.curves import draw_curves
from zoo_core.train.devices import launch
from zoo_core.train.ema import Ema
from zoo_core.train.filling import filled
from zoo_core.train.generators import generator_states, kept_generators, restore_generators, seed_all
from zoo_core.train.hardware import describe_hardware
from zoo_core.train.log import Journal, Meter
from zoo_core.train.pace import Pace, duration
from zoo_core.train.prefetch import Part, prefetched
from zoo_core.train.recipe import CachingRecipe, TrainRecipe
from zoo_core.train.record import RunRecord, Status, commit, now, versions
from zoo_core.train.regions import compile_parts
from zoo_core.train.rehearsal import rehearsed
from zoo_core.train.resume import check_same_run, finished_record, optimizer_state, restore_optimizer, starting_point
from zoo_core.train.signals import StopRequest, stop_requests
from zoo_core.train.state import Checkpoint, existing, read_checkpoint, sweep, write_checkpoint
from zoo_core.train.step import Step
from zoo_core.train.task import (
    CompilesParts,
    Configures,
    DescribesBatches,
    FillsCache,
    LearnsFromOthers,
    PublishesPart,
    Rehearses,
    Task,
    WatchesOthers,
)
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import sha256_of, write_tensors

LOG = logging.getLogger("zoo_core.train")

Resume = Literal["auto", "never"] | Path
Until = Callable[[Sequence[Mapping[str, float]]], bool]


def fit(
    task: Task,
    recipe: TrainRecipe,
    out: Path,
    *,
    resume: Resume = "auto",
    dry_run: bool = False,
    fabric: Fabric | None = None,
    after: Path | None = None,
    keep_optimizer: bool = False,
    until: Until | None = None,
) -> RunRecord:
    """Train, and leave in `out` the weights, checkpoints, logs, curves, the resolved recipe and the run record.

    Messages and progress go to the logger `zoo_core.train`.

    Args:
        task: what is trained; see `zoo_core.train`.
        recipe: by what.
        out: the folder of the run.
        resume: `auto` goes on from the newest whole checkpoint in `out`, if there is one; `never` begins anew and
            refuses a folder that holds a run; a path names a checkpoint, or the folder of a run.
        dry_run: run three steps and one evaluation, write nothing, and say in the record's metrics what the whole run
            would take.
        fabric: what `launch` returned, for a task that needs a device before; by default it is launched here.
        after: the folder of a run that this one continues with another task or recipe, as the next stage: where it has
            no checkpoint of its own, weights, averages, generators and the count of steps are taken from there.
        keep_optimizer: take its optimiser's state, too.
        until: says from the metrics of all evaluations so far whether the run ends before its last step.

    Returns:
        The run record; its status is `time limit` if the recipe's time ran out (the run can be resumed), `cached` if
        the recipe's stage was that alone.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM came; the state is saved.
        UsageError: this device cannot do what the recipe asks, or the checkpoint is of another recipe or other data.
        ZooError: the loss is NaN or infinite; the disk is full; every checkpoint is damaged.
    """
    fabric = fabric or launch(recipe)
    bare = task.module
    try:
        with stop_requests() as request, number_format(recipe.precision, benchmark=True):
            run = _Run(task, recipe, out, fabric, request, until)
            if dry_run:
                return run.rehearse()
            if isinstance(recipe, CachingRecipe) and recipe.stage == "cache":
                return run.fill_cache()
            return run.whole(resume, after, keep_optimizer=keep_optimizer)
    finally:
        task.module = bare


class _Run:
    """One session of a run: everything that `fit` needs to keep in hand."""

    def __init__(
        self, task: Task, recipe: TrainRecipe, out: Path, fabric: Fabric, request: StopRequest, until: Until | None
    ) -> None:
        self.task, self.recipe, self.out, self.fabric, self.request = task, recipe, out, fabric, request
        self.until = until
        self.started = time.monotonic()
        self.earlier_seconds, self.sessions = 0.0, 1
        self.metrics: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.hash = recipe_hash(recipe, without=recipe.may_change)
        self.fingerprint = task.fingerprint()
        self.identities = task.identities() if isinstance(task, LearnsFromOthers) else {}
        seed_all(recipe.seed, rank=fabric.global_rank)
        self.module: nn.Module = fabric.to_device(task.module)
        self.module.train()
        self.optimizer = task.optimizer()
        self.ema = Ema(self.module, recipe.ema_decay) if recipe.ema_decay else None
        compiled: Any = self.module
        if recipe.compile and isinstance(task, CompilesParts):
            compile_parts(task.parts())
        elif recipe.compile:
            compiled = torch.compile(self.module)
        task.module = fabric.setup_module(compiled)
        self.step = Step(task, recipe, self.optimizer, fabric)
        self.meter = Meter(task.describe if isinstance(task, DescribesBatches) else None)

    # -- the run ------------------------------------------------------------------------------------------------------

    def whole(self, resume: Resume, after: Path | None, *, keep_optimizer: bool) -> RunRecord:
        """Go from the starting point to the end, a signal or the time limit."""
        checkpoint = starting_point(self.out / "checkpoints", resume, self.fabric.is_global_zero)
        if checkpoint is not None:
            self._restore(checkpoint)
        elif after is not None:
            checkpoint = read_checkpoint(existing(after / "checkpoints")[0])
            self._continue(checkpoint, keep_optimizer=keep_optimizer)
        done = checkpoint.step if checkpoint else 0
        if self._complete(done) and (record := finished_record(self.out, self.hash)):
            return record
        if self.fabric.is_global_zero:
            check_writable(self.out)
            sweep(self.out / "checkpoints")
            with whole(self.out / "recipe.resolved.yaml", overwrite=True) as path:
                path.write_text(dump_recipe(self.recipe), encoding="utf-8")
        self.journal = self._journal(done)
        try:
            done = done if self._complete(done) else self._train(done)
        finally:
            if self.journal:
                self.journal.close()
        if self.request.signal is not None:
            raise InterruptedRunError(
                f"Stopped by {self.request.signal.name} after step {done} of {self.recipe.steps}; the state is saved.",
                "The same command goes on from there.",
                exit_code=self.request.exit_code,
            )
        return self._finish(done)

    def _train(self, done: int) -> int:
        """Run the steps that are left; return how many are done in all."""
        recipe = self.recipe
        batches = prefetched(self._maker(), range(done, recipe.steps), workers=recipe.workers, kind=recipe.worker_kind)
        batch = next(batches, None)
        self.pace = Pace(done)
        for step in range(done, recipe.steps):
            self._advance(step, batch)
            batch = next(batches, None)  # made while the device still works on the step before
            done = step + 1
            last = done == recipe.steps
            stopping = self._stopping(done)
            saving = last or stopping or done % recipe.save_every == 0
            evaluating = last or done % recipe.eval_every == 0
            # also before each save, so that no checkpoint holds a NaN, and a resumed run logs the same rows
            if saving or evaluating or done % recipe.log_every == 0:
                self._report(done)
            if evaluating:
                self.metrics = self._evaluate()
                self.history.append(self.metrics)
                self._log_metrics(done)
            last = self._complete(done)
            if (stopping or last) and isinstance(self.task, WatchesOthers):
                self.task.check_unchanged()  # before the save, so that no later session takes it for a good end
            if saving or last:
                self._save(done)
            if stopping or last:
                break
        return done

    def _complete(self, done: int) -> bool:
        """Whether nothing is left to do: a function of what is saved, so a resumed run ends where it would have."""
        return done == self.recipe.steps or bool(self.until and self.history and self.until(self.history))

    def _advance(self, step: int, batch: Any) -> None:
        batch = map_tensors(lambda tensor: tensor.to(self.fabric.device, non_blocking=True), batch)
        self.meter.add(step, self.step(batch, self.task.learning_rate(step)))
        if self.ema is not None:
            self.ema.update(step)

    def _maker(self) -> Any:
        world, rank = self.fabric.world_size, self.fabric.global_rank
        return self.task.batch if world == 1 else Part(self.task.batch, self.recipe.batch, rank, world)

    def _stopping(self, done: int) -> bool:
        limit = self.recipe.time_limit_minutes
        mine = self.request.signal is not None or (limit is not None and self._seconds() > limit * 60)
        if self.fabric.world_size == 1:
            return mine
        # all processes must stop after the same step: they agree where they meet anyway
        if done % self.recipe.log_every:
            return False
        return self._over_processes([float(mine)])[0] > 0

    def _over_processes(self, values: list[float]) -> list[float]:
        """Return the means over all processes."""
        if self.fabric.world_size == 1:
            return values
        tensor = self.fabric.all_reduce(torch.tensor(values, device=self.fabric.device), reduce_op="mean")
        return [float(value) for value in tensor]

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    # -- what is written ----------------------------------------------------------------------------------------------

    def _journal(self, done: int) -> Journal | None:
        if not self.fabric.is_global_zero:
            return None
        return Journal(self.out, after=done, tensorboard=self.recipe.tensorboard)

    def _report(self, done: int) -> None:
        if not len(self.meter):
            return
        means = self.meter.means(self.step.names)
        means = self._over_processes(means)
        row = dict(zip(self.step.names, means, strict=True))
        pace_seconds = self.pace.lap(done)
        if self.journal:
            rate = self.task.learning_rate(done - 1)
            self.journal.train(done, {**row, "learning_rate": rate, "step_seconds": pace_seconds})
        left = (self.recipe.steps - done) * pace_seconds
        shown = "  ".join(f"{name} {value:.5g}" for name, value in row.items())
        LOG.info("step %d/%d  %s  %.4g s/step  %s left", done, self.recipe.steps, shown, pace_seconds, duration(left))

    def _evaluate(self) -> dict[str, float]:
        """Evaluate the averaged weights in the first process; the others wait for the figures."""
        metrics: dict[str, float] = {}
        if self.fabric.is_global_zero:
            module = self.ema.module if self.ema else self.module
            was_training = module.training
            module.eval()
            # compiling for a few evaluations costs more than it saves
            with torch.no_grad(), kept_generators(), torch.compiler.set_stance("force_eager"):
                metrics = {name: float(value) for name, value in self.task.evaluate(module).items()}
            module.train(was_training)
        self.pace.skip()
        return metrics if self.fabric.world_size == 1 else self.fabric.broadcast(metrics)

    def _log_metrics(self, done: int) -> None:
        if self.journal:
            self.journal.evaluate(done, self.metrics)
        LOG.info("step %d  %s", done, "  ".join(f"{name} {value:.5g}" for name, value in self.metrics.items()))

    def _save(self, done: int) -> None:
        states = [generator_states()]
        if self.fabric.world_size > 1:
            gathered: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        if self.fabric.is_global_zero:
            tensors, rest = optimizer_state(self.optimizer)
            groups = {"model": dict(self.module.state_dict()), "optimizer": tensors}
            if self.ema is not None:
                groups["ema"] = self.ema.state_dict()
            data = {
                "recipe": self.recipe.model_dump(mode="json"),
                "recipe_hash": self.hash,
                "data_fingerprint": self.fingerprint,
                "identities": self.identities,
                "optimizer": rest,
                "scaler": self.step.scaler.state_dict() if self.step.scaler else None,
                "generators": states,
                "metrics": self.metrics,
                "history": self.history,
                "seconds": self.earlier_seconds + self._seconds(),
                "sessions": self.sessions,
                "versions": versions(),
            }
            write_checkpoint(self.out / "checkpoints", Checkpoint(done, groups, data), keep=self.recipe.keep)
        self.fabric.barrier()
        self.pace.skip()

    def _restore(self, checkpoint: Checkpoint) -> None:
        data = checkpoint.data
        check_same_run(self.recipe, self.fingerprint, self.identities, checkpoint)
        self._take(checkpoint, keep_optimizer=True)
        self.metrics, self.earlier_seconds = data["metrics"], data["seconds"]
        self.history = data.get("history", [])
        self.sessions = data["sessions"] + 1
        LOG.info("resumed after step %d of %d", checkpoint.step, self.recipe.steps)

    def _continue(self, checkpoint: Checkpoint, *, keep_optimizer: bool) -> None:
        """Begin where another run ended."""
        self._take(checkpoint, keep_optimizer=keep_optimizer)
        LOG.info("the next stage begins after step %d, and ends after step %d", checkpoint.step, self.recipe.steps)

    def _take(self, checkpoint: Checkpoint, *, keep_optimizer: bool) -> None:
        data = checkpoint.data
        self.module.load_state_dict(checkpoint.groups["model"])
        if self.ema is not None:
            # a stage before may have been without averages
            self.ema.load_state_dict(checkpoint.groups.get("ema", checkpoint.groups["model"]))
        if keep_optimizer:
            restore_optimizer(self.optimizer, checkpoint.groups["optimizer"], data["optimizer"])
        if self.step.scaler is not None:
            self.step.scaler.load_state_dict(data["scaler"])
        rank = self.fabric.global_rank
        if rank < len(data["generators"]):
            restore_generators(data["generators"][rank])

    def _finish(self, done: int) -> RunRecord:
        finished = self._complete(done)
        if not self.fabric.is_global_zero:
            return self._record("finished" if finished else "time limit", done)
        draw_curves(self.out)
        if not finished:
            return self._record("time limit", done)
        file = self.out / "weights.safetensors"
        facts = {"recipe_hash": self.hash, "steps": str(done)}
        if isinstance(self.task, Configures) and (config := self.task.config()):
            facts[CONFIG] = json.dumps(config)
        best = self.ema.state_dict() if self.ema else dict(self.module.state_dict())
        write_tensors(file, self._published(best), facts, overwrite=True)
        weights = {"file": file.name, "sha256": sha256_of(file), "size_bytes": file.stat().st_size}
        record = self._record("finished", done, weights)
        with whole(self.out / "record.json", overwrite=True) as path:
            path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return record

    def _published(self, tensors: dict[str, Any]) -> dict[str, Any]:
        return self.task.published(tensors) if isinstance(self.task, PublishesPart) else tensors

    def _record(self, status: Status, done: int, weights: dict[str, Any] | None = None) -> RunRecord:
        return RunRecord(
            status=status,
            recipe=self.recipe.model_dump(mode="json"),
            recipe_hash=self.hash,
            seed=self.recipe.seed,
            data_fingerprint=self.fingerprint,
            steps=done,
            sessions=self.sessions,
            seconds=round(self.earlier_seconds + self._seconds(), 3),
            ended=now(),
            versions=versions(type(self.task).__module__.partition(".")[0].replace("_", "-")),
            commit=commit(),
            hardware=describe_hardware(self.fabric.device, processes=self.fabric.world_size),
            parameters=sum(p.numel() for p in self._published(dict(self.module.named_parameters())).values()),
            metrics=self.metrics,
            weights=weights,
            identities=self.identities,
        )

    # -- the cache, and the dry run ------------------------------------------------------------------------------------

    def fill_cache(self) -> RunRecord:
        """Write down the teacher's outputs, and nothing in the run's folder; what is there already stays."""
        if not isinstance(self.task, FillsCache):
            raise UsageError(
                "stage=cache: nothing is kept of a teacher here.", "Give the recipe a teacher and a cache."
            )
        if self.fabric.world_size > 1:
            raise UsageError("Several processes cannot fill one cache.", "Run stage=cache in one process.")
        done, count = filled(self.task, self._stopping)
        if self.request.signal is not None:
            raise InterruptedRunError(
                f"Stopped by {self.request.signal.name} after {done} samples; they are kept.",
                "The same command goes on from there.",
                exit_code=self.request.exit_code,
            )
        self.metrics = {"cached_samples": float(done)}
        return self._record("cached" if done == count else "time limit", 0)

    def rehearse(self) -> RunRecord:
        """Take some steps and one evaluation and time them, see `rehearsed`; write nothing."""
        device, make = self.fabric.device, self._maker()
        self.pace = Pace(0)
        if isinstance(self.task, Rehearses):
            batch = map_tensors(lambda tensor: tensor.to(device), make(0))
            LOG.info("%s", self.task.rehearse(batch))
        self.metrics = rehearsed(self.recipe, device, make=make, advance=self._advance, evaluate=self._evaluate)
        return self._record("dry run", 0)

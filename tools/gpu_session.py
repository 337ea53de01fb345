"""A session of training on borrowed GPUs: a table of stages, in commands of minutes, going on where the last stopped.

Stages run in the order of the table, one on each GPU, as soon as the weights that they start or learn from are there.
With `--slots 2` there are two on each: they share its time, and one trains while the other loads and compiles.
Where the table gives minutes, not steps, a dry run measures a step the first time, and the number of steps follows.
`plan.json` keeps it. What is left follows from the runs' folder alone: a stage with a record is done, one with
checkpoints goes on. Near the end of the time all stages get SIGTERM, save and exit.

In $OUT lie at most 8 files of 16 MiB, 64 MiB in all: results.json, logs.tar.gz, weights-fp16.tar, and the runs' folder
as state.tar.0, .1, ...; `pack_gpu.py --state FOLDER` carries these to another machine.

`train_sr_gpu.py` and `train_htr_gpu.py` have the tables.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 2**20
PART_BYTES, ALL_BYTES, MOST_FILES = 15 * MIB, 63 * MIB, 8
SAVING_SECONDS = 25  # from SIGTERM to the end of the process
PACKING_SECONDS = 10
SMOKE_STEPS = 24
LEAST_SECONDS = 75  # a stage that would have less is not begun: it takes about half of that to get going


@dataclass(frozen=True)
class Stage:
    """One training.

    Args:
        name: of its folder.
        model: whose recipe it follows.
        minutes: of steps on one GPU, from which their number follows; 0 if `steps` or `like` says it.
        takes: recipe keys that name weights -> the stage, or stages, that make them.
        like: the stage whose number of steps it has, and with which it is compared.
        times: what that number is multiplied by.
        keys: further recipe keys.
        kept: whether its weights travel back; its record does in any case.
        steps: their number, if it is known: no dry run then.
    """

    name: str
    model: str
    minutes: float = 0
    takes: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    like: str = ""
    times: int = 1
    keys: tuple[str, ...] = ()
    kept: bool = True
    steps: int = 0

    def sources(self) -> list[str]:
        """Return the stages whose weights it takes."""
        return [name for taken in self.takes.values() for name in ((taken,) if isinstance(taken, str) else taken)]


@dataclass(frozen=True)
class Table:
    """What a session trains.

    Args:
        package: whose module `train` does it.
        stages: in the order of their importance.
        metric: of the validation data, by which stages are compared.
    """

    package: str
    stages: tuple[Stage, ...]
    metric: str


class Session:
    """One command: as many stages as the time allows."""

    def __init__(self, table: Table, options: argparse.Namespace) -> None:
        self.table, self.options, self.runs = table, options, Path(options.runs)
        self.end = time.monotonic() + options.minutes * 60 - SAVING_SECONDS - PACKING_SECONDS
        self.changed = threading.Condition()
        self.begun: set[str] = set()
        self.busy = 0
        self.exits: dict[str, int] = {}
        plan = self.runs / "plan.json"
        self.plan: dict[str, Any] = json.loads(plan.read_text()) if plan.is_file() else {}

    def work(self, slot: str) -> None:
        """Train one stage after another on one GPU."""
        while (stage := self._next()) is not None:
            say(f"{stage.name}: begins on GPU {slot or 'none'}, {self._left():.0f} s left")
            code = self._train(stage, slot)
            say(f"{stage.name}: {'finished' if finished(self.runs / stage.name) else f'ended with exit code {code}'}")
            with self.changed:
                self.busy -= 1
                self.exits[stage.name] = code
                self.changed.notify_all()

    def _left(self) -> float:
        return self.end - time.monotonic()

    def _next(self) -> Stage | None:
        with self.changed:
            while self._left() > (0 if self.options.smoke else LEAST_SECONDS):
                ready = [stage for stage in self.table.stages if self._ready(stage)]
                if ready:
                    self.begun.add(ready[0].name)
                    self.busy += 1
                    return ready[0]
                if not self.busy:
                    return None
                self.changed.wait(1)
        return None

    def _ready(self, stage: Stage) -> bool:
        return (
            stage.name not in self.begun
            and (not self.options.only or stage.name in self.options.only)
            and not finished(self.runs / stage.name)
            and all(weights_of(self.runs / source) for source in stage.sources())
            and (not stage.like or stage.like in self.plan)
        )

    def _train(self, stage: Stage, slot: str) -> int:
        keys = []
        for key, taken in stage.takes.items():
            if isinstance(taken, str):
                keys.append(f"{key}={self._weights(taken)}")
            else:
                keys.append(f"{key}=[{', '.join(map(self._weights, taken))}]")
        if stage.name not in self.plan:
            code = self._decide(stage, slot, keys)
            if code:
                return code
        planned = self.plan[stage.name]
        return self._run(stage, slot, [*keys, *planned["keys"], f"steps={planned['steps']}"])[0]

    def _weights(self, source: str) -> str:
        return str(self.runs / source / "weights.safetensors")

    def _decide(self, stage: Stage, slot: str, keys: list[str]) -> int:
        """Settle the number of steps and the keys of a stage for good."""
        owned = (text.split(":", 1) for text in self.options.set)
        planned: dict[str, Any] = {"keys": [*stage.keys, *(key for owner, key in owned if owner == stage.name)]}
        if stage.steps:
            planned["steps"] = min(stage.steps, SMOKE_STEPS) if self.options.smoke else stage.steps
        elif stage.like:
            planned["steps"] = stage.times * self.plan[stage.like]["steps"]
        else:
            code, printed = self._run(stage, slot, [*keys, *planned["keys"], "--dry-run", "--format", "json"])
            if code:
                return code
            planned["step_seconds"] = json.loads(printed)["metrics"]["step_seconds"]
            planned["steps"] = two_digits(stage.minutes * 60 * self.options.factor / planned["step_seconds"])
        with self.changed:
            self.plan[stage.name] = planned
            (self.runs / "plan.json").write_text(json.dumps(self.plan, indent=1) + "\n")
        return 0

    def _run(self, stage: Stage, slot: str, arguments: list[str]) -> tuple[int, str]:
        """Run `zoo train`, at the end of the time with SIGTERM; return its exit code and what it printed."""
        command = [
            sys.executable,
            "-m",
            f"{self.table.package}.train",
            stage.model,
            "-o",
            str(self.runs / stage.name),
            *arguments,
        ]
        command += ["--smoke"] if self.options.smoke else []
        with (self.runs / f"{stage.name}.log").open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                command, env={**os.environ, "CUDA_VISIBLE_DEVICES": slot}, stdout=subprocess.PIPE, stderr=log, text=True
            )
            try:
                printed, _ = process.communicate(timeout=max(1, self._left()))
            except subprocess.TimeoutExpired:
                process.terminate()
                try:
                    printed, _ = process.communicate(timeout=SAVING_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    printed, _ = process.communicate()
            log.write(printed)
        return process.returncode, printed


def two_digits(number: float) -> int:
    """Round down to two digits, at least to 10: a number of steps that one can say."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return max(10, int(number) // unit * unit)


def finished(run: Path) -> bool:
    """Whether a run is at its end: then it has a record."""
    return (run / "record.json").is_file()


def weights_of(run: Path) -> list[Path]:
    """Return the weights of a run that is at its end: one file, or none if they did not travel."""
    return [path for path in [run / "weights.safetensors"] if finished(run) and path.is_file()]


def checkpoints(run: Path) -> list[Path]:
    """Return the whole checkpoints of a run, newest first."""
    return sorted(
        (path for path in run.glob("checkpoints/step-*") if (path / "checksums.json").is_file()), reverse=True
    )


def results(session: Session) -> dict[str, Any]:
    """Say of every stage how far it is, and what each is worth beside the one of equal steps: validation data only."""
    stages: dict[str, Any] = {}
    for stage in session.table.stages:
        run, facts = session.runs / stage.name, dict(session.plan.get(stage.name, {}))
        if finished(run):
            record = json.loads((run / "record.json").read_text())
            picked = ("steps", "seconds", "sessions", "metrics", "hardware", "data_fingerprint")
            facts |= {"status": "finished"} | {name: record[name] for name in picked}
        elif found := checkpoints(run):
            facts |= {"status": f"stopped at step {int(found[0].name.removeprefix('step-'))}"}
        else:
            facts |= {"status": "not begun"}
        if session.exits.get(stage.name):
            facts["exit_code"] = session.exits[stage.name]
        stages[stage.name] = facts
    told: dict[str, Any] = {"stages": stages, "gains": {}}
    for stage in session.table.stages:
        pair = [stages[name] for name in (stage.name, stage.like) if name]
        if len(pair) == 2 and all(facts["status"] == "finished" for facts in pair):
            one, other = (facts["metrics"][session.table.metric] for facts in pair)
            told["gains"][f"{session.table.metric} of {stage.name} minus {stage.like}"] = round(one - other, 4)
    return told


# -- there and back ----------------------------------------------------------------------------------------------------


def pack(runs: Path, out: Path, told: dict[str, Any], stages: tuple[Stage, ...]) -> None:
    """Put into `out` what may travel back: results, logs, half-precision weights, and as much state as there is room.

    Small things first: then only the checkpoint of a large unfinished run may have to stay behind, and that is said.
    Weights that no other stage takes go on in half precision.
    """
    out.mkdir(parents=True, exist_ok=True)
    logs = [path for pattern in ("*.log", "*/*.csv", "*/*.json", "*/*.yaml") for path in sorted(runs.glob(pattern))]
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        for path in [*logs, *runs.glob("plan.json")]:
            archive.add(path, path.relative_to(runs))
    taken = {source for stage in stages for source in stage.sources()}
    done = [stage for stage in stages if weights_of(runs / stage.name)]
    with tarfile.open(out / "weights-fp16.tar", "w") as archive:
        for stage in done:
            if stage.kept:
                add_halved(archive, f"{stage.name}.safetensors", runs / stage.name)
    items = [runs / "plan.json", *(path for path in logs if path.suffix != ".log")]
    items += [path for stage in done if stage.name in taken for path in weights_of(runs / stage.name)]
    unfinished = [stage for stage in stages if not finished(runs / stage.name)]
    newest = [checkpoints(runs / stage.name)[:1] for stage in unfinished]
    items += sorted((path for found in newest for path in found), key=size_of)
    room = min((MOST_FILES - 3) * PART_BYTES, ALL_BYTES - size_of(out)) - MIB  # the last for tar's own blocks
    state = io.BytesIO()
    with tarfile.open(fileobj=state, mode="w") as archive:
        for stage in done:
            if stage.kept and stage.name not in taken:
                add_halved(archive, f"{stage.name}/weights.safetensors", runs / stage.name)
        for path in items:
            if path.exists() and state.tell() + size_of(path) < room:
                archive.add(path, path.relative_to(runs))
            elif path.exists():
                told.setdefault("left_behind", []).append(str(path.relative_to(runs)))
    whole = state.getbuffer()
    for number, start in enumerate(range(0, len(whole), PART_BYTES)):
        (out / f"state.tar.{number}").write_bytes(whole[start : start + PART_BYTES])
    (out / "results.json").write_text(json.dumps(told, indent=1) + "\n")


def unpack(state: Path, runs: Path) -> None:
    """Put back what `pack` took, from the parts in the folder `state`."""
    parts = sorted(state.glob("state.tar.*"), key=lambda path: int(path.suffix[1:]))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extractall(runs, filter="data")


def add_halved(archive: tarfile.TarFile, name: str, run: Path) -> None:
    """Add a run's weights in half precision, as they are published, under a name."""
    from zoo_core.weights.eight_bits import SCALE
    from zoo_core.weights.files import read_tensors, write_tensors

    tensors, facts = read_tensors(run / "weights.safetensors", as_kept=True)
    halved = {
        key: tensor.half() if tensor.is_floating_point() and not key.endswith(SCALE) else tensor
        for key, tensor in tensors.items()
    }
    aside = run / "halved.safetensors"
    write_tensors(aside, halved, facts, overwrite=True)
    archive.add(aside, name)
    aside.unlink()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def gpus() -> list[str]:
    """Return the numbers of the GPUs of this machine."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def say(text: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def options_of(table: Table, arguments: list[str] | None = None, *, description: str = "") -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9, help="until this command is at its end (default 9)")
    parser.add_argument("--factor", type=float, default=1, help="of the minutes in the table, for new stages")
    parser.add_argument("--only", nargs="*", metavar="STAGE", help="stages to work on; by default all")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE:KEY=VALUE", help="a recipe key of a stage")
    parser.add_argument("--runs", default="runs/gpu", help="folder of the runs")
    parser.add_argument("--state", default="carry/state", help="folder with what an earlier machine sent back")
    parser.add_argument("--out", default=os.environ.get("OUT", "out"), help="folder of what travels back ($OUT)")
    parser.add_argument("--smoke", action="store_true", help="seconds a stage, on made-up data")
    parser.add_argument("--slots", type=int, default=1, help="stages at a time on each GPU, or without one")
    parser.add_argument("--gpus", nargs="+", default=gpus(), metavar="NUMBER", help="which ones; by default all")
    options = parser.parse_args(arguments)
    known = {stage.name for stage in table.stages}
    for text in options.set:
        if text.partition(":")[0] not in known or "=" not in text:
            parser.error(f"--set {text}: write STAGE:KEY=VALUE with a stage of {', '.join(sorted(known))}")
    for name in options.only or ():
        if name not in known:
            parser.error(f"--only {name}: the stages are {', '.join(sorted(known))}")
    return options


def main(table: Table, *, description: str) -> int:
    """Work until the time is over or nothing is left; 1 if a stage failed."""
    options = options_of(table, description=description)
    runs = Path(options.runs)
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / "plan.json").is_file() and any(Path(options.state).glob("state.tar.*")):
        unpack(Path(options.state), runs)
        say(f"went on from {options.state}")
    session = Session(table, options)
    workers = [threading.Thread(target=session.work, args=(slot,)) for slot in (options.gpus or [""]) * options.slots]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    told = results(session)
    pack(runs, Path(options.out), told, table.stages)
    say(json.dumps(told, indent=1))
    left = [name for name, facts in told["stages"].items() if facts["status"] != "finished"]
    say(f"left: {', '.join(left)}" if left else "nothing is left")
    stopped = {0, 143, -15}  # at the end of the time: saved by the loop, or nothing to save yet
    return int(any(code not in stopped for code in session.exits.values()))

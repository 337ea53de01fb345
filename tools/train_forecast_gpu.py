"""Train Aurora small on borrowed GPUs, in commands of minutes, going on where the last one stopped.

    python -m zoo_forecast.minilm out/minilm.safetensors      # here, once, with the wheel of MiniLM installed
    python tools/pack_gpu.py --package zoo-forecast forecast/pretrain out/minilm.safetensors
    . carry/setup.sh && python tools/train_forecast_gpu.py      # there, again until it says that nothing is left

The synthetic series are made there, before the first stage: they would be too large to carry. How the rest goes: see
gpu_session.py.

    python tools/train_forecast_gpu.py --smoke --minutes 4 --steps 8 --series 64 --events 64 --jobs 2     # on CPU
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gpu_session import Stage, Table, options_of
from gpu_session import main as work

SYNTHETIC = Path("runs") / "forecast-synthetic.npz"
KEYS = (f"synthetic={SYNTHETIC}",)
# as recipes/aurora-small-steps.yaml has it
FEWER = (
    "taught_steps=50", "texts=false", "events=0.0", "covariates=0.0", "batch=16", "learning_rate=5e-4",
    "weight_decay=0.0", "warmup_steps=150", "precision=fp32", "compile=false", "graph=false",
)  # fmt: skip
ON = ("learning_rate=3e-4", "warmup_steps=200")  # of weights that have learnt


def stages(steps: int) -> tuple[Stage, ...]:
    """Return what is trained: one seed, its flow in fewer steps, two more seeds, a larger network, and each on."""
    return (
        Stage("small", "aurora-small", steps=steps, keys=KEYS),
        Stage("steps", "aurora-small", takes={"init": "small"}, steps=2_400, keys=(*KEYS, *FEWER)),
        Stage("10m", "aurora-small-10m", steps=60_000, keys=(*KEYS, "learning_rate=8e-4")),
        Stage("small-2", "aurora-small", like="small", keys=(*KEYS, "seed=2"), kept=False),
        Stage("small-3", "aurora-small", like="small", keys=(*KEYS, "seed=3"), kept=False),
        *(going_on(f"small{seed}", *keys) for seed, keys in (("", ()), ("-2", ("seed=2",)), ("-3", ("seed=3",)))),
    )


def going_on(source: str, *keys: str) -> Stage:
    """Return the stage that goes on from another one's weights."""
    return Stage(f"{source}-on", "aurora-small", takes={"init": source}, steps=18_000, keys=(*KEYS, *ON, *keys))


def main() -> int:
    """Make the synthetic series if they are not there, then train."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--series", type=int, default=60_000, help="synthetic series")
    parser.add_argument("--events", type=int, default=40_000, help="synthetic events")
    parser.add_argument("--jobs", type=int, default=16, help="processes that make them")
    parser.add_argument("--steps", type=int, default=24_000, help="of every stage that does not give minutes")
    parser.add_argument("--minutes", type=float, default=9)
    own, rest = parser.parse_known_args()
    table = Table("zoo_forecast", stages(own.steps), metric="crps")
    options_of(table, rest, description=f"{__doc__}\n{parser.format_help()}")  # ends it for --help, or a mistake
    begin = time.monotonic()
    if not SYNTHETIC.exists():
        from zoo_forecast.synth import write

        SYNTHETIC.parent.mkdir(parents=True, exist_ok=True)
        write(SYNTHETIC, own.series, own.events, jobs=own.jobs)
        print(f"{SYNTHETIC}: {time.monotonic() - begin:.0f} s", flush=True)
    sys.argv[1:] = [f"--minutes={own.minutes - (time.monotonic() - begin) / 60}", *rest]
    return work(table, description="")


if __name__ == "__main__":
    raise SystemExit(main())

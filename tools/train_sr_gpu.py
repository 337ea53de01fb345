"""Train all super-resolution models on borrowed GPUs, in commands of minutes, going on where the last one stopped.

    python -m zoo_sr.textures sr-textures.parquet && python tools/pack_gpu.py sr/train sr-textures.parquet   # here
    . carry/setup.sh && python tools/train_sr_gpu.py      # there, again until it says that nothing is left

How: see gpu_session.py.

    python tools/train_sr_gpu.py --smoke --slots 2 --minutes 2      # a rehearsal on CPU
"""

from __future__ import annotations

from gpu_session import Stage, Table, main

# What is to be published first. On two GPUs the right column of work is rtc, large-x4, x4-taught.
STAGES = (
    Stage("x2", "imdn-x2", 7),
    Stage("x4", "imdn-x4", 7, {"init": "x2"}),
    Stage("x3", "imdn-x3", 6, {"init": "x2"}),
    Stage("rtc", "imdn-rtc", 1.5),
    Stage("large-x4", "imdn-large-x4", 11),
    Stage("x4-taught", "imdn-x4", takes={"init": "x2", "teacher": "large-x4"}, like="x4"),
)
TABLE = Table("zoo_sr", STAGES, metric="psnr_y")

if __name__ == "__main__":
    raise SystemExit(main(TABLE, description=__doc__))

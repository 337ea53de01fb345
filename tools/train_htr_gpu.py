"""Train HTR-JAND on borrowed GPUs: teacher, student alone and taught, over three seeds, and what each idea is worth.

    python -m zoo_htr.fonts && python -m zoo_htr.synth htr-synthetic.parquet     # here, once
    python tools/pack_gpu.py htr/lines/train.parquet htr/lines/val.parquet htr-synthetic.parquet
    . carry/setup.sh && python tools/train_htr_gpu.py      # there, again until it says that nothing is left

How: see gpu_session.py. On an H100 a step of the teacher takes 15 ms, of the student 13, of the taught student 18,
after two or three minutes of compiling; with three at once on one H200, under NVIDIA's MPS, 11 each. Ablations have the
steps of `short`, which is the student alone on less time, and change one thing each; results.json holds the differences
of the character error rate on the split val.

    python tools/train_htr_gpu.py --smoke --slots 2 --minutes 4      # a rehearsal on CPU
"""

from __future__ import annotations

from gpu_session import Stage, Table, main

TEACHER, STUDENT = "htr-jand-teacher", "htr-jand-student"
TAUGHT = {"teacher": "teacher"}


def ablation(name: str, *keys: str, taught: bool = False) -> Stage:
    """Return a short run of the student in which one thing differs."""
    like = "short-taught" if taught else "short"
    return Stage(name, STUDENT, takes=TAUGHT if taught else {}, like=like, keys=keys, kept=False)


PARTS = 3  # of the lines, as the recipes have it
UNSEEN = {"teachers": tuple(f"teacher-without-{part}" for part in range(PARTS))}

# What is to be published first, then what is claimed, then what explains it. Students learn from the longest teacher.
STAGES = (
    Stage("teacher", TEACHER, steps=32_000),
    Stage("student", STUDENT, steps=14_000),
    *(Stage(f"student-{seed}", STUDENT, like="student", keys=(f"seed={seed}",)) for seed in (2, 3)),
    Stage("student-taught", STUDENT, takes=TAUGHT, like="student"),
    *(
        Stage(f"student-taught-{seed}", STUDENT, takes=TAUGHT, like=f"student-{seed}", keys=(f"seed={seed}",))
        for seed in (2, 3)
    ),
    Stage("teacher-1", TEACHER, steps=14_000),
    *(Stage(f"teacher-{seed}", TEACHER, like="teacher-1", keys=(f"seed={seed}",)) for seed in (2, 3)),
    # what a teacher is worth on a third of the steps
    Stage("short", STUDENT, steps=5_000),
    *(Stage(f"short-{seed}", STUDENT, like="short", keys=(f"seed={seed}",)) for seed in (2, 3)),
    Stage("short-taught", STUDENT, takes=TAUGHT, like="short"),
    *(
        Stage(f"short-taught-{seed}", STUDENT, takes=TAUGHT, like=f"short-{seed}", keys=(f"seed={seed}",))
        for seed in (2, 3)
    ),
    ablation("mhsa", "branches=mhsa"),
    ablation("proxima", "branches=proxima"),
    ablation("no-curriculum", "curriculum=false"),
    ablation("no-synthetic-start", "synthetic_phase=0"),
    ablation("no-synthetic", "synthetic=[]", "synthetic_phase=0"),
    ablation("no-shortcut", "shortcut_weight=0"),
    ablation("kd-uniform", "kd_frames=uniform", taught=True),
    ablation("kd-no-blank", "kd_frames=no_blank", taught=True),
    ablation("kd-soft", "kd_frames=soft", taught=True),
    ablation("kd-no-features", "kd_features=0", taught=True),
    ablation("kd-quarter", "kd=0.25", "kd_end=0.25", taught=True),
    ablation("kd-guided", "kd_guide=0.3", "graph=false", taught=True),
    ablation("kd-alone", "kd=1", "kd_end=1", taught=True),
    ablation("kd-early", "kd=0.65", "kd_end=0", "graph=false", taught=True),
    ablation("kd-hot", "kd_tau=4", taught=True),
    # 32,000 steps know the training lines by heart; fewer leave more to be told
    Stage("kd-by-shorter", STUDENT, takes={"teacher": "teacher-1"}, like="short-taught", kept=False),
    # teachers that each have not seen a third of the lines, and students taught every line by the one that has not
    *(Stage(name, TEACHER, steps=12_000, keys=(f"left_out={part}",)) for part, name in enumerate(UNSEEN["teachers"])),
    *(
        Stage(f"student-unseen{seed}", STUDENT, takes=UNSEEN, like=f"student{seed}", keys=(f"seed={seed[1:] or 1}",))
        for seed in ("", "-2", "-3")
    ),
    Stage("kd-unseen", STUDENT, takes=UNSEEN, like="short-taught", kept=False),
    Stage("student-twice", STUDENT, like="student", times=2, kept=False),
)
TABLE = Table("zoo_htr", STAGES, metric="cer")

if __name__ == "__main__":
    raise SystemExit(main(TABLE, description=__doc__))

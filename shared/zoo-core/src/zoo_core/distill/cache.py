"""A teacher's outputs on the disk, by the names of samples: training then costs what it costs without a teacher.

A folder: `header.json` (whose outputs of what data, which files), `index.parquet` (sample, view -> shard, row) and
`shard-00000.safetensors`, ..., which are mapped into memory. A shard is written aside, synced and renamed, then index
and header follow, so that a killed writer leaves a smaller cache and never a wrong one.

Outputs in fp32 are the teacher's own: training from them is bit-equal to training with it, as far as its output for a
sample does not depend on batch mates. `zoo_core.distill.records` says how numbers are kept.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from zoo_core.distill.batches import Pick, pick
from zoo_core.distill.records import Form, Name, decoded, encoded, named, together
from zoo_core.distill.targets import pack, unpack
from zoo_core.errors import InputError, ZooError
from zoo_core.io.atomic import make_folder, whole
from zoo_core.probe import Seen
from zoo_core.weights.files import sha256_of

HEADER, INDEX = "header.json", "index.parquet"
ENDS = "|ends"
SHOWN = 3


class Shard(BaseModel):
    """A file of outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    rows: int
    size_bytes: int
    sha256: str


class Header(BaseModel):
    """What a cache holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    teacher: str
    data: str
    policy: str
    form: Form
    count: int = 0
    shards: tuple[Shard, ...] = ()


class TeacherCache:
    """Outputs by the names of samples.

    Args:
        folder: made if it is missing.
        teacher: fingerprint of the teacher; None takes what is there (nothing is computed then).
        data: fingerprint of the samples; None as above.
        policy: what views of a sample there are: `exact` (no random ones, or view numbers that replay them), `views=K`.
        form: of the numbers.
        shard_bytes: about how long a shard gets.

    Raises:
        InputError: the cache is damaged (a shard is short or missing), or is of another teacher, other data or another
            policy; says both values.
    """

    def __init__(
        self,
        folder: Path,
        *,
        teacher: str | None = None,
        data: str | None = None,
        policy: str = "exact",
        form: Form = "fp32",
        shard_bytes: int = 64 << 20,
    ) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._places: dict[Name, tuple[int, int]] = {}
        self._open: dict[int, dict[str, Tensor]] = {}
        self._pending: dict[Name, dict[str, Tensor]] = {}
        self._pending_bytes = 0
        if (folder / HEADER).is_file():
            self.header = self._read_header()
            given = {"teacher": teacher, "data": data, "policy": policy, "form": form}
            for what, value in given.items():
                have = getattr(self.header, what)
                if value is not None and value != have:
                    raise self._differs(what, have, value)
            self._read_index()
        elif teacher is None or data is None:
            raise InputError(f"{folder} holds no cache of a teacher.", "Write one first, or name the right folder.")
        else:
            self.header = Header(teacher=teacher, data=data, policy=policy, form=form)

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """Whether the numbers are the teacher's own."""
        return self.header.form == "fp32"

    @property
    def form(self) -> Form:
        """How numbers are kept."""
        return self.header.form

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def check_teacher(self, fingerprint: str) -> None:
        """Refuse outputs of another teacher.

        Raises:
            InputError: says both fingerprints.
        """
        if fingerprint != self.header.teacher:
            raise self._differs("teacher", self.header.teacher, fingerprint)

    def verify(self) -> None:
        """Hash every shard.

        Raises:
            InputError: names the shard that has changed.
        """
        for shard in self.header.shards:
            if sha256_of(self.folder / shard.file) != shard.sha256:
                raise InputError(
                    f"{self.folder / shard.file} has changed since it was written.", "Write the cache again."
                )

    # -- reading ------------------------------------------------------------------------------------------------------

    def missing(self, names: Any) -> list[Name]:
        """Return which of these samples are not here."""
        return [name for name in named(names) if name not in self._places and name not in self._pending]

    def lacks(self, missing: list[Name]) -> InputError:
        """Return the error about samples that are not here."""
        shown = ", ".join(f"{sample} (view {view})" if view else sample for sample, view in missing[:SHOWN])
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        return InputError(
            f"{self.folder} lacks the teacher's outputs for {shown}{more}.",
            "Write the cache for these data, or let the teacher fill it (fill=true).",
        )

    def read(self, names: Any, *, device: torch.device | str = "cpu", frames: int | None = None) -> dict[str, Any]:
        """Return the outputs of samples, in their order, by point.

        Args:
            names: a tensor or list of sample numbers or texts, or pairs of sample and view.
            device: where they go.
            frames: to how many frames outputs of different lengths are filled up with zeros; by default the longest's.

        Raises:
            InputError: samples are not here; names the first three.
        """
        wanted = named(names)
        missing = self.missing(wanted)
        if missing:
            raise self.lacks(missing)
        rows = [self._row(name) for name in wanted]
        stacked = {key: together([row[key] for row in rows], frames) for key in rows[0]}
        return unpack({key: x.to(device) for key, x in decoded(stacked).items()})

    def _row(self, name: Name) -> dict[str, Tensor]:
        if name in self._pending:
            return self._pending[name]
        shard, row = self._places[name]
        if shard not in self._open:
            path = self.folder / self.header.shards[shard].file
            with safe_open(path, framework="pt", device="cpu") as file:
                self._open[shard] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors = self._open[shard]
        found = {}
        for key, tensor in tensors.items():
            if key.endswith(ENDS):
                continue
            ends = tensors.get(key + ENDS)
            found[key] = tensor[row] if ends is None else tensor[int(ends[row - 1]) if row else 0 : int(ends[row])]
        return found

    # -- writing ------------------------------------------------------------------------------------------------------

    def add(self, names: Any, seen: Seen, *, lengths: Tensor | None = None) -> None:
        """Take in the outputs of samples; those that are here already stay. `flush` or a full shard writes them.

        Args:
            names: of the samples.
            seen: their outputs.
            lengths: (B,) frames of each sample: of outputs (B, T, ...) only those are kept, and given back padded.
        """
        rows = encoded(pack(seen.at), self.form)
        for number, name in enumerate(named(names)):
            if name in self._places or name in self._pending:
                continue
            row = {key: tensor[number].clone() for key, tensor in rows.items()}
            if lengths is not None:
                row = {key: x[: int(lengths[number])].clone() if x.ndim else x for key, x in row.items()}
            self._pending[name] = row
            self._pending_bytes += sum(x.numel() * x.element_size() for x in row.values())
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken in.

        Raises:
            ZooError: the disk is full; says how many bytes are needed. What was written before stays.
        """
        if not self._pending:
            return
        make_folder(self.folder)
        number = len(self.header.shards)
        path = self.folder / f"shard-{number:05d}.safetensors"
        names, rows = list(self._pending), list(self._pending.values())
        tensors: dict[str, Tensor] = {}
        for key in rows[0]:
            parts = [row[key] for row in rows]
            if len({x.shape for x in parts}) == 1:
                tensors[key] = torch.stack(parts)
            else:  # of different lengths: one behind the other, with where each ends
                tensors[key] = torch.cat(parts)
                tensors[key + ENDS] = torch.tensor([len(x) for x in parts]).cumsum(0)
        data = save(tensors)
        try:
            # a shard of this number that is there already was never named in a header
            with whole(path, overwrite=True) as aside:
                aside.write_bytes(data)
            size, digest = path.stat().st_size, sha256_of(path)
            places = {**self._places, **{name: (number, row) for row, name in enumerate(names)}}
            with whole(self.folder / INDEX, overwrite=True) as aside:
                pq.write_table(_table(places), aside)
            shard = Shard(file=path.name, rows=len(names), size_bytes=size, sha256=digest)
            header = self.header.model_copy(update={"shards": (*self.header.shards, shard), "count": len(places)})
            with whole(self.folder / HEADER, overwrite=True) as aside:
                aside.write_text(header.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except (OSError, ZooError) as error:
            cause = error.__cause__ if isinstance(error, ZooError) else error
            if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise ZooError(
                    f"{path} cannot be written: no space for its {len(data)} bytes.",
                    f"Free some space; the {len(self._places)} samples before it are kept.",
                ) from error
            raise
        self.header, self._places = header, places
        self._pending, self._pending_bytes = {}, 0

    # -- the files ----------------------------------------------------------------------------------------------------

    def _read_header(self) -> Header:
        path = self.folder / HEADER
        try:
            header = Header.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(f"{path} is no header of a teacher's cache.", "Write the cache again.") from error
        for shard in header.shards:
            file = self.folder / shard.file
            size = file.stat().st_size if Path(shard.file).name == shard.file and file.is_file() else -1
            if size != shard.size_bytes:
                found = "is missing" if size < 0 else f"has {size} bytes instead of {shard.size_bytes}"
                raise InputError(f"{file} {found}.", "The cache is damaged: write it again.")
        return header

    def _read_index(self) -> None:
        path = self.folder / INDEX
        if not self.header.shards:
            return
        try:
            table = pq.read_table(path)
            columns = [table.column(name).to_pylist() for name in ("sample", "view", "shard", "row")]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise InputError(f"{path} is no index of a teacher's cache.", "Write the cache again.") from error
        # a writer that was killed between index and header left rows of a shard that the header does not name
        places = {
            (sample, view): (shard, row)
            for sample, view, shard, row in zip(*columns, strict=True)
            if shard < len(self.header.shards)
        }
        if len(places) != self.header.count or any(row >= self.header.shards[s].rows for s, row in places.values()):
            raise InputError(f"{path} and {HEADER} do not agree.", "The cache is damaged: write it again.")
        self._places = places

    def _differs(self, what: str, have: str, given: str) -> InputError:
        names = {"teacher": "another teacher", "data": "other data", "policy": "another augmentation policy"}
        return InputError(
            f"{self.folder} was written for {names.get(what, f'another {what}')} ({have[:12]}, this is {given[:12]}).",
            "Write a cache in another folder, or use what this one was written for.",
        )


def write_cache(
    cache: TeacherCache, teacher: Any, batches: Iterable[Any], *, keys: Pick, lengths: Pick | None = None
) -> Generator[int]:
    """Fill a cache from batches, going on where a killed writer stopped; yields how many samples it has after each.

    Args:
        cache: where to.
        teacher: a `Teacher`; its `inputs` say what it sees of a batch.
        batches: of all samples.
        keys: which part of a batch names its samples.
        lengths: which part tells the frames of each sample; the cache then keeps no padding.
    """
    try:
        for batch in batches:
            names = pick(batch, keys)
            if cache.missing(names):
                frames = None if lengths is None else pick(batch, lengths)
                cache.add(names, teacher.compute(pick(batch, teacher.inputs)), lengths=frames)
            yield len(cache)
    finally:  # also where the caller stops asking
        cache.flush()


def _table(places: dict[Name, tuple[int, int]]) -> pa.Table:
    samples, views = zip(*places, strict=True)
    shards, rows = zip(*places.values(), strict=True)
    return pa.table(
        {
            "sample": pa.array(samples, pa.string()),
            "view": pa.array(views, pa.int32()),
            "shard": pa.array(shards, pa.int32()),
            "row": pa.array(rows, pa.int32()),
        }
    )

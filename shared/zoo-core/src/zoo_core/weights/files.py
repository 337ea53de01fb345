"""Weight files: safetensors in and out, hashed, loaded strictly. Nothing here runs code that a file brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import WeightsError
from zoo_core.io.atomic import whole
from zoo_core.weights.eight_bits import widened

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 10  # how many keys a message names


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file differ from what a model expects; all empty when they fit.

    Args:
        missing: keys that the model has and the file lacks, in the model's order.
        unknown: keys that the file has and the model lacks, in the file's order.
        misfits: keys of both whose shape or kind of number differs, each with what differs.
        matching: how many keys agree.
    """

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misfits: tuple[str, ...]
    matching: int

    @property
    def exact(self) -> bool:
        """Whether every key agrees and there is no other."""
        return not (self.missing or self.unknown or self.misfits)

    @property
    def likeness(self) -> float:
        """The share of all keys that agree, 0 to 1."""
        total = self.matching + len(self.missing) + len(self.unknown) + len(self.misfits)
        return self.matching / total if total else 0.0

    def __str__(self) -> str:
        parts = ((self.missing, "missing"), (self.unknown, "unknown"), (self.misfits, "of another shape"))
        return "; ".join(_first(keys, what) for keys, what in parts if keys) or f"all {self.matching} keys agree"


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Fit:
    """Compare a model's state dict (a meta one will do) with the tensors of a file: key, shape, kind of number."""
    misfits = []
    for key in expected.keys() & tensors.keys():
        want, have = expected[key], tensors[key]
        if want.shape != have.shape:
            misfits.append(f"{key} (file {_shape(have)}, model {_shape(want)})")
        elif want.is_floating_point() != have.is_floating_point():
            misfits.append(f"{key} (file {have.dtype}, model {want.dtype})")
    return Fit(
        missing=tuple(key for key in expected if key not in tensors),
        unknown=tuple(key for key in tensors if key not in expected),
        misfits=tuple(sorted(misfits)),
        matching=len(expected.keys() & tensors.keys()) - len(misfits),
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path, *, as_kept: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: of the file.
        as_kept: matrices in 8 bits stay what they are in the file, see `zoo_core.weights.eight_bits`.

    Returns:
        the tensors by key, on the CPU, and the metadata. Matrices in 8 bits come as float32, all else as it is kept.

    Raises:
        WeightsError: no such file, unreadable, truncated, of another format (a pickle is named as such), or a matrix in
            8 bits has a scale that does not fit it.
    """
    from safetensors import SafetensorError, safe_open

    _refuse_other_formats(path)
    try:
        # the device is named: a default device of the caller must not decide where weights go
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            facts = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}).", "Fetch or write it again.") from error
    return (tensors if as_kept else widened(tensors, what=str(path))), facts


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: where; its folder is made if it is missing.
        tensors: by key, on any device; two that share memory are written as two.
        metadata: short facts; `{"format": "pt"}` is added, as readers of the format expect.
        overwrite: whether an existing file is replaced.

    Raises:
        ZooError: the file exists and `overwrite` is off, or it cannot be written.
    """
    from safetensors.torch import save

    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    seen: set[int] = set()
    for key, tensor in plain.items():
        memory = tensor.untyped_storage().data_ptr()
        if memory in seen:  # the format has no notion of shared tensors
            plain[key] = tensor.clone()
        seen.add(memory)
    with whole(path, overwrite=overwrite) as aside:
        # by way of bytes, so that a full disk is the OSError that `whole` explains
        aside.write_bytes(_settled(save(plain, metadata={"format": "pt", **metadata})))


def _settled(data: bytes) -> bytes:
    """Put the metadata of a safetensors file in order: the library writes them in another one each time.

    The same weights then have the same hash.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into a module, cast to its types: every key must be there, fit, and be known.

    Args:
        module: changed in place.
        tensors: by key.
        what: what the tensors are, for messages.

    Raises:
        WeightsError: anything is missing, unknown or of another shape; the first keys are named.
    """
    fit = compare(module.state_dict(), tensors)
    if not fit.exact:
        raise WeightsError(
            f"{what} does not fit {type(module).__name__}: {fit}.", "`zoo weights convert FILE` says what a file is."
        )
    module.load_state_dict(dict(tensors), strict=True)


def _refuse_other_formats(path: Path) -> None:
    if not path.exists():
        raise WeightsError(f"{path} does not exist.", "Check the path.")
    if not path.is_file():
        raise WeightsError(f"{path} is a folder.", "Name a safetensors file.")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).", "Check its permissions.") from error
    if is_pickle(head):
        raise WeightsError(
            f"{path} is a pickle, which may run code when it is read; zoo reads safetensors only.",
            f"If you trust its origin: zoo weights convert {path} --from-pickle -o model.safetensors",
        )
    if len(head) < 9 or head[8:9] != b"{":
        raise WeightsError(f"{path} is not a safetensors file.", "Name a safetensors file.")


def is_pickle(head: bytes) -> bool:
    """Whether the first bytes of a file are those of `torch.save`: a zip, or a bare pickle of protocol 2 or later."""
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first(keys: tuple[str, ...], what: str) -> str:
    more = ", ..." if len(keys) > SHOWN else ""
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} ({', '.join(keys[:SHOWN])}{more})"

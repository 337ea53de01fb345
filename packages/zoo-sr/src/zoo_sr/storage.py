"""Where the maps of a sweep live: the device's memory, the host's memory, or a file that vanishes with the process.

A file is read and written by position, tile by tile, and never mapped into memory, so that the process stays as small
as its tiles; what the operating system caches of it, it gives back when somebody needs the memory.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from zoo_core.errors import ZooError
from zoo_sr.regions import Region

_ASSUMED_FREE_BYTES = 4 << 30  # where the system does not say


class Map(Protocol):
    """A map of C channels at every pixel, (1, C, height, width) in channels_last where it is read."""

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) of a region on the computing device."""

    def write(self, region: Region, values: Tensor) -> None:
        """Replace a region by values (1, C, h, w)."""

    def close(self) -> None:
        """Give memory or disk space back."""


class MemoryMap:
    """A map in memory, of the computing device or of the host.

    A region that is the whole map is handed in and out without a copy, full-width rows are handed out without one.
    What was read is not to be changed.
    """

    def __init__(
        self, bounds: Region, channels: int, dtype: torch.dtype, device: torch.device, place: torch.device
    ) -> None:
        self.bounds, self.channels, self.dtype, self.device, self.place = bounds, channels, dtype, device, place
        self.values: Tensor | None = None

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) of a region on the computing device."""
        values = cast(Tensor, self.values)  # every region is written before it is read
        if region == self.bounds:
            return values.to(self.device)
        rows, columns = region.slices
        return _packed(values[:, :, rows, columns]).to(self.device)

    def write(self, region: Region, values: Tensor) -> None:
        """Replace a region by values (1, C, h, w)."""
        if region == self.bounds:
            self.values = _packed(values.to(self.place))
            return
        if self.values is None:
            shape = (1, self.channels, self.bounds.height, self.bounds.width)
            self.values = torch.empty(shape, dtype=self.dtype, device=self.place, memory_format=torch.channels_last)
        rows, columns = region.slices
        self.values[:, :, rows, columns] = values

    def close(self) -> None:
        """Give the memory back."""
        self.values = None


def _packed(values: Tensor) -> Tensor:
    """Lay (1, C, h, w) out in channels_last, by its strides also where a side is 1.

    The layout matters: on another one convolutions take another path and round differently.
    """
    _, channels, height, width = values.shape
    strides = (height * width * channels, 1, width * channels, channels)
    if values.stride()[1:] == strides[1:]:
        return values.as_strided(values.shape, strides)  # there is one image: its stride says nothing
    pixels = torch.empty((1, height, width, channels), dtype=values.dtype, device=values.device)
    return pixels.permute(0, 3, 1, 2).copy_(values)


class FileMap:
    """A map in an unlinked temporary file: pixel after pixel, row after row, the channels of a pixel together."""

    def __init__(self, bounds: Region, channels: int, dtype: torch.dtype, device: torch.device, folder: Path) -> None:
        self.bounds, self.channels, self.dtype, self.device, self.folder = bounds, channels, dtype, device, folder
        self.pixel_bytes = channels * dtype.itemsize
        self.file = tempfile.TemporaryFile(dir=folder, prefix="zoo-map-", buffering=0)  # noqa: SIM115 - closed by close()

    def read(self, region: Region) -> Tensor:
        """Return the values (1, C, h, w) of a region on the computing device."""
        values = torch.empty((region.height, region.width, self.channels), dtype=self.dtype)
        for offset, run in self._runs(region, values):
            self.file.seek(offset)
            while run:
                count = self.file.readinto(run)
                if not count:
                    raise ZooError(f"A temporary file in {self.folder} ended early.", "Free disk space and run again.")
                run = run[count:]
        return values[None].permute(0, 3, 1, 2).to(self.device)

    def write(self, region: Region, values: Tensor) -> None:
        """Replace a region by values (1, C, h, w)."""
        packed = values[0].permute(1, 2, 0).to("cpu", self.dtype).contiguous()
        try:
            for offset, run in self._runs(region, packed):
                self.file.seek(offset)
                while run:
                    run = run[self.file.write(run) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_room(self.folder, self.bounds.pixels * self.pixel_bytes) from error
            raise

    def close(self) -> None:
        """Give the disk space back."""
        self.file.close()

    def _runs(self, region: Region, values: Tensor) -> Iterator[tuple[int, memoryview]]:
        """Yield place in the file and bytes of every stretch in one piece: a row, or all of it if rows are full."""
        raw = memoryview(cast(bytearray, values.flatten().view(torch.uint8).numpy()))
        rows = region.height if region.width == self.bounds.width else 1
        length = rows * region.width * self.pixel_bytes
        for k, row in enumerate(range(region.top, region.bottom, rows)):
            pixel = (row - self.bounds.top) * self.bounds.width + region.left - self.bounds.left
            yield pixel * self.pixel_bytes, raw[k * length : (k + 1) * length]


def no_room(folder: Path, needed_bytes: int) -> ZooError:
    """Return the error for a folder without room for temporary files."""
    return ZooError(
        f"{folder} has no room for temporary files of {needed_bytes / 2**30:.1f} GiB.",
        "Point TMPDIR at a larger disk, or allow more memory.",
    )


def scratch_folder() -> Path:
    """Return where temporary files go: $TMPDIR, else /var/tmp (a disk, where /tmp is often memory), else a default."""
    disk = Path("/var/tmp")  # noqa: S108 - the files have no name there
    if "TMPDIR" not in os.environ and os.access(disk, os.W_OK):
        return disk
    return Path(tempfile.gettempdir())


def free_disk_bytes(folder: Path) -> int:
    """Return the room left in a folder."""
    return shutil.disk_usage(folder).free


def free_memory_bytes(device: torch.device) -> int:
    """Return how much memory we may still take: of a CUDA device, else of the host and the control groups around us."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    groups = _cgroup_free_bytes(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return min(_available_bytes(Path("/proc/meminfo")), *groups)


def _available_bytes(meminfo: Path) -> int:
    """Return MemAvailable of /proc/meminfo; elsewhere half of the physical memory."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_FREE_BYTES


def _cgroup_free_bytes(root: Path, membership: Path) -> list[int]:
    """Return limit minus use of every control group (version 1 and 2) that holds us; file cache counts as free."""
    free = [1 << 62]
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return free
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit_name, used_name, cache_name = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "memory"
            limit_name, used_name, cache_name = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder != base and base not in folder.parents:
                break
            try:
                limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
                numbers = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue  # the root has no limit; in a container the group's own path may not be there
            if limit != "max":
                free.append(max(0, int(limit) - used + int(numbers.get(cache_name, 0))))
    return free

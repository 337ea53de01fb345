"""What is wrong with this environment, found without changing anything.

Libraries that can take the process down when they are broken (torch, torchvision) are tried in a process of their
own. The network is touched only when asked.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points, version
from pathlib import Path
from typing import Any, Literal, TypeAlias

from zoo_core import catalog

Level: TypeAlias = Literal["ok", "note", "problem"]

PROBE_SECONDS = 120
ENDPOINT_SECONDS = 5
LOW_DISK_BYTES = 2_000_000_000
LOW_MEMORY_BYTES = 1_000_000_000

# uploads that were taken over by an attacker (advisory GHSA-w37p-236h-pfx3)
MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}

_SETTINGS = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

_TORCH_PROBE = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
gpus = [torch.cuda.get_device_properties(i) for i in range(count)]
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "threads": torch.get_num_threads(),
    "gpus": [[g.name, g.total_memory, f"{g.major}.{g.minor}"] for g in gpus],
}))
"""
_TORCHVISION_PROBE = "import json, torchvision; print(json.dumps({'version': torchvision.__version__}))"

# the parts of a line of Requires-Dist, such as: lightning>=2.6.4; extra == 'train'
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_FLOOR = re.compile(r"[>~=]=\s*([0-9.]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)")


@dataclass(frozen=True)
class Finding:
    """One fact about the environment; a problem has a remedy, and a trace where an exception was behind it."""

    topic: str
    level: Level
    what: str
    remedy: str = ""
    trace: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as JSON-able data."""
        return {k: v for k, v in vars(self).items() if v or k in ("topic", "level", "what")}


def examine(*, network: bool = False) -> Iterator[Finding]:
    """Yield what there is to say about this environment, in the order in which a reader wants it.

    Args:
        network: also ask the hub whether it answers.
    """
    yield _python()
    torch = _torch()
    yield torch
    yield from _torchvision(torch)
    yield from _requirements()
    yield from _memory()
    yield from _cache()
    yield from _settings()
    if network:
        yield _endpoint()
    yield from _packages(torch_works=torch.level == "ok")
    yield from _extras()


def _python() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    what = f"python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} CPU cores"
    floor = _floor(_distribution("zoo-core"), "Requires-Python")
    if sys.version_info[:2] < floor[:2]:
        return Finding("python", "problem", what, f"zoo needs Python {'.'.join(map(str, floor))} or newer.")
    return Finding("python", "ok", what)


def _torch() -> Finding:
    found = _probe(_TORCH_PROBE)
    if isinstance(found, str):
        remedy = "Reinstall it: pip install --force-reinstall torch."
        return Finding("torch", "problem", f"torch cannot be imported: {_last_line(found)}", remedy, found)
    build = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for CPU"
    what = f"torch {found['version']}, {build}, {found['threads']} threads"
    devices = [f"{name} ({memory / 1e9:.0f} GB, compute {capability})" for name, memory, capability in found["gpus"]]
    return Finding("torch", "ok", f"{what}, {' and '.join(devices) if devices else 'no GPU: runs on the CPU'}")


def _torchvision(torch: Finding) -> Iterator[Finding]:
    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return
    found = _probe(_TORCHVISION_PROBE)
    if isinstance(found, dict):
        yield Finding("torchvision", "ok", f"torchvision {found['version']}")
    elif torch.level == "ok":
        # met in the wild: a CPU torch beside a CUDA torchvision; timm and lightning then fail on import too
        what = f"torchvision {installed} does not work with {torch.what.split(',')[0]}: {_last_line(found)}"
        remedy = (
            "Install both from one index in one command (pip install --force-reinstall torch torchvision), or remove "
            "torchvision: pip uninstall torchvision."
        )
        yield Finding("torchvision", "problem", what, remedy, found)


def _requirements() -> Iterator[Finding]:
    """Check what zoo-core depends on: another install may have downgraded it."""
    core = _distribution("zoo-core")
    fine = []
    for name, floor, extra in _required(core):
        try:
            installed = version(name)
        except PackageNotFoundError:
            if extra is None:
                yield Finding("versions", "problem", f"{name} is not installed.", f'pip install "{name}>={floor}"')
            continue
        if installed in MALICIOUS.get(name, ()):
            what = f"{name} {installed} was a malicious upload."
            yield Finding("versions", "problem", what, f'Change your secrets, then: pip install "{name}>={floor}"')
        elif _numbers(installed) < _numbers(floor):
            what = f"{name} {installed} is older than {floor}."
            yield Finding("versions", "problem", what, f'pip install "{name}>={floor}"')
        elif name != "torch":
            fine.append(f"{name} {installed}")
    yield Finding("versions", "ok", ", ".join([f"zoo-core {core.version if core else '(not installed)'}", *fine]))


def _memory() -> Iterator[Finding]:
    """Report main memory; a container's limit counts where it is the smaller one."""
    if not hasattr(os, "sysconf"):
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = total
    try:
        match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        available = int(match[1]) * 1024 if match else total
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max" and int(limit) < total:
            total, available = int(limit), min(available, int(limit) - used)
    except (OSError, ValueError):
        pass  # not Linux, or no control group: what was found so far stands
    what = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB memory available"
    if available < LOW_MEMORY_BYTES:
        yield Finding("memory", "note", what, "Close something, or expect small tiles and small batches.")
    else:
        yield Finding("memory", "ok", what)


def _cache() -> Iterator[Finding]:
    folder = Path(catalog.load_object("huggingface_hub.constants:HF_HUB_CACHE"))
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    what = f"weights are cached in {folder}, {free / 1e9:.1f} GB free"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "Name a folder of yours with HF_HOME=FOLDER; embedded weights work without."
        yield Finding("cache", "note", f"{what}, not writable ({error.strerror})", remedy)
        return
    if free < LOW_DISK_BYTES:
        yield Finding("cache", "note", what, "Free some space, or name another disk with HF_HOME=FOLDER.")
    else:
        yield Finding("cache", "ok", what)


def _settings() -> Iterator[Finding]:
    """Show the environment variables that change where weights come from, without passwords."""
    names = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in _SETTINGS}
    given = [f"{name}={re.sub(r'//[^/@]*@', '//***@', value)}" for name, value in names.items() if value]
    if given:
        yield Finding("settings", "note", ", ".join(given))


def _endpoint() -> Finding:
    address = str(catalog.load_object("huggingface_hub.constants:ENDPOINT"))
    remedy = "Check the network and the proxy, or work offline: embedded and cached weights need no hub."
    if not address.startswith(("https://", "http://")):
        return Finding("hub", "problem", f"HF_ENDPOINT is no web address: {address}", "Unset HF_ENDPOINT.")
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 (scheme checked above)
        with urllib.request.urlopen(request, timeout=ENDPOINT_SECONDS):  # noqa: S310 (scheme checked above)
            pass
    except urllib.error.HTTPError as error:
        return Finding("hub", "ok", f"{address} answers (status {error.code})")
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Finding("hub", "problem", f"{address} does not answer within {ENDPOINT_SECONDS} s: {reason}", remedy)
    return Finding("hub", "ok", f"{address} answers")


def _packages(*, torch_works: bool) -> Iterator[Finding]:
    """Import all code that the installed manifests name, which listing never does."""
    installed = catalog.packages()
    if not installed:
        yield Finding("packages", "note", "no zoo package is installed", "pip install zoo-sr")
    for package in installed:
        if package.error:
            remedy = f"Reinstall or uninstall {package.name}."
            yield Finding("packages", "problem", f"{package.name}: {package.error}", remedy, package.trace)
        elif not torch_works:
            yield Finding("packages", "note", f"{package.name}: not tried, since torch does not work")
        else:
            yield _try_code(package)


def _try_code(package: catalog.InstalledPackage) -> Finding:
    targets = {target for entry in package.entries for _, target in entry.manifest.entry if target}
    for target in sorted(targets):
        try:
            catalog.load_object(target)
        except Exception as error:
            what = f"{package.name}: {target} does not load: {type(error).__name__}: {error}"
            return Finding("packages", "problem", what, f"Reinstall {package.name}.", traceback.format_exc())
    return Finding("packages", "ok", f"{package.name}: {len(package.entries)} models, all their code loads")


def _extras() -> Iterator[Finding]:
    """Say which optional parts of the installed zoo packages are there."""
    owners = {point.dist.name: point.dist for point in entry_points(group=catalog.GROUP) if point.dist}
    for owner, found in sorted(owners.items()):
        extras: dict[str, list[str]] = {}
        for name, _, extra in _required(found):
            if extra is not None:
                extras.setdefault(extra, []).append(name)
        for extra, names in extras.items():
            lacking = [name for name in names if _distribution(name) is None]
            if lacking:
                what = f"{owner}[{extra}] is not installed (lacks {', '.join(lacking)})"
                yield Finding("optional", "note", what, f'pip install "{owner}[{extra}]"')
            else:
                yield Finding("optional", "ok", f"{owner}[{extra}]: {', '.join(f'{n} {version(n)}' for n in names)}")


def _probe(code: str) -> dict[str, Any] | str:
    """Run code that prints one JSON line in a process of its own; return its data, or the text of its failure."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} s"
    if done.returncode != 0:
        return done.stderr.strip() or f"the process died with code {done.returncode}"
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _required(found: Distribution | None) -> Iterator[tuple[str, str, str | None]]:
    """Yield (name, floor or "0", extra or None) of each requirement of a distribution."""
    for line in (found.requires if found else None) or ():
        wanted, _, marker = line.partition(";")
        name, floor, extra = _NAME.match(wanted), _FLOOR.search(wanted), _EXTRA.search(marker)
        if name:
            yield name[0], floor[1] if floor else "0", extra[1] if extra else None


def _floor(found: Distribution | None, key: str) -> tuple[int, ...]:
    return _numbers(found.metadata[key]) if found and found.metadata[key] else (0,)


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release numbers of a version, good enough to compare it with a floor."""
    release = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else (0,)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]

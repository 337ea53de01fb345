"""Many inputs, one result each, in order; a failing one ends alone, and memory holds a few at a time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as pil

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import InputError, MissingDependencyError, UsageError, ZooError
from zoo_core.io.atomic import whole
from zoo_core.io.inputs import Source
from zoo_core.manifest import parse_manifest
from zoo_core.options import Options
from zoo_core.predict import Predictor, Progress, choose_device, choose_precision, run, silent

MANIFEST = """{"format": 1, "id": "length", "task": "count", "summary": "Counts bytes",
  "entry": {"model": "nowhere:Model"}, "inputs": {"kind": "text"}, "outputs": {"kind": "text"}, "parameters": 1,
  "precisions": ["fp32", "fp16"], "paper": {"title": "t", "id": "i", "year": 2019}}"""
ENTRY = CatalogEntry(parse_manifest(MANIFEST, origin="test"), "nowhere", Path())
CPU = torch.device("cpu")


class Length:
    def __init__(self, count: int) -> None:
        self.count = count

    def as_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        with whole(path, overwrite=overwrite) as aside:
            aside.write_text(str(self.count))
        return (path,)

    def draw(self) -> pil.Image | None:
        return None


class Counter(Predictor[bytes, int, int]):
    """Counts bytes; `fail` fails in forward, and everything notes in which thread it ran."""

    suffixes = frozenset({".txt"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threads: dict[str, str] = {}
        self.alive = self.most_alive = 0

    def read(self, source: Source) -> Iterator[bytes]:
        self.threads["read"] = threading.current_thread().name
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        yield source.read_bytes()

    def prepare(self, item: bytes) -> int:
        return len(item)

    def forward(self, prepared: int, *, progress: Progress = silent) -> int:
        assert torch.is_inference_mode_enabled()
        self.threads["forward"] = threading.current_thread().name
        if prepared == 4:
            raise RuntimeError("four is not a number of mine")
        progress(1.0)
        return prepared

    def finish(self, item: bytes, output: int) -> Length:
        self.threads["finish"] = threading.current_thread().name
        time.sleep(0.002)  # the slowest step: results would overtake each other if they could
        self.alive -= 1
        return Length(output)

    def file_names(self, source: Source) -> tuple[str, ...]:
        return (f"{source.stem}.count",)


def counter() -> Counter:
    return Counter.open(ENTRY, torch.nn.Identity(), device=CPU, precision="fp32", options=Options())


def test_results_come_in_input_order_from_overlapping_threads(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text("x" * (20 - i if i != 16 else 30))
    made = counter()
    shares: list[tuple[str, float]] = []
    outcomes = list(
        run(made, [tmp_path], out=tmp_path / "out", progress=lambda s, share: shares.append((s.stem, share)))
    )
    assert [o.source.stem for o in outcomes] == [str(i) for i in range(20)]
    assert (tmp_path / "out" / "0.count").read_text() == "20"
    assert made.threads["read"].startswith("zoo-read")
    assert made.threads["finish"].startswith("zoo-write")
    assert made.threads["forward"] == "MainThread"
    assert made.most_alive <= 6  # a folder of any length needs the memory of a few inputs
    assert shares[0] == ("0", 1.0)


def test_an_input_that_fails_fails_alone_and_names_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "four.txt").write_text("abcd")
    (tmp_path / "z.txt").write_text("z")
    gone = tmp_path / "gone.txt"
    a, four, missing, z = run(counter(), [tmp_path / "a.txt", tmp_path / "four.txt", gone, tmp_path / "z.txt"])
    assert isinstance(a.result, Length)
    assert isinstance(z.result, Length)
    assert (a.result.count, z.result.count) == (3, 1)
    assert isinstance(missing.error, InputError)
    assert type(four.error) is ZooError  # a fault of ours, said as one
    assert "four.txt: RuntimeError: four is not a number of mine." in four.error.message
    assert isinstance(four.error.__cause__, RuntimeError)  # for --debug


def test_a_run_that_is_left_early_stops(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i}.txt").write_text("x")
    running = run(counter(), [tmp_path], out=tmp_path / "out")
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert len(list((tmp_path / "out").iterdir())) <= 4


def test_skipping_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "four.txt").write_text("abcd")
    (tmp_path / "four.count").write_text("from before")
    (outcome,) = run(counter(), [tmp_path / "four.txt"], out=tmp_path, skip_existing=True)
    assert outcome.skipped
    assert (tmp_path / "four.count").read_text() == "from before"


def test_one_input_raises_what_is_wrong_with_it(tmp_path: Path) -> None:
    assert counter().predict(b"ab").as_dict() == {"count": 2}
    with pytest.raises(InputError, match="does not exist"):
        counter().predict(tmp_path / "gone")
    with pytest.raises(UsageError, match="A path or the bytes of a file is needed, not list"):
        counter().predict([1])


def test_devices_and_precisions_are_checked() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(UsageError, match="no device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto") == CPU
        with pytest.raises(MissingDependencyError, match="cuda:7 is not usable"):
            choose_device("cuda:7")
    assert choose_precision(ENTRY, "auto", CPU) == "fp32"
    assert choose_precision(ENTRY, "auto", torch.device("cuda")) == "fp16"
    with pytest.raises(UsageError, match=r"length does not run in bf16. Did you mean 'fp16'\?"):
        Counter.open(ENTRY, torch.nn.Identity(), device=CPU, precision="bf16", options=Options())

"""Weights that are wrong, foreign or damaged must never reach a model, and the message must say what to do."""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save_file
from torch import nn

from zoo_core.catalog import CatalogEntry
from zoo_core.cli.weights import command
from zoo_core.errors import InputError, UsageError, WeightsError, ZooError
from zoo_core.manifest import WeightSet
from zoo_core.testing.tiny import MODEL, PACKAGE, TinyPackage, tiny_tensors, tiny_weights, weight_set, write_package
from zoo_core.weights.build import CONFIG, build, expected
from zoo_core.weights.card import card_text
from zoo_core.weights.convert import recognise_file, unwrapped
from zoo_core.weights.files import load_strict, read_tensors, sha256_of, write_tensors
from zoo_core.weights.find import FoundWeights, find
from zoo_core.weights.golden import golden_difference, golden_path
from zoo_core.weights.publish import assemble

NAME = "tiny-x1.safetensors"
CPU = torch.device("cpu")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyPackage]:
    """The tiny package with its weights embedded, installed for the time of a test."""
    data = tiny_weights()
    package = write_package(tmp_path / "site", [weight_set(data)], embedded={NAME: data})
    monkeypatch.syspath_prepend(package.folder)
    importlib.invalidate_caches()
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def entry(tiny: TinyPackage) -> CatalogEntry:
    return tiny.entry


def _checkpoint(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def _theirs() -> dict[str, torch.Tensor]:
    """The tiny weights as the other trainer names them."""
    return {key.replace("first", "head").replace("last", "tail"): t for key, t in tiny_tensors().items()}


class TestFiles:
    def test_what_is_written_is_read_back_with_its_metadata(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / NAME
        write_tensors(path, tiny_tensors(), {"zoo.model": MODEL})
        tensors, metadata = read_tensors(path)
        assert metadata == {"format": "pt", "zoo.model": MODEL}
        assert all(torch.equal(tensors[key], value) for key, value in tiny_tensors().items())
        with pytest.raises(InputError, match="exists already"):
            write_tensors(path, {}, {})

    def test_tensors_that_share_memory_are_written_as_two(self, tmp_path: Path) -> None:
        both = torch.arange(6.0)
        write_tensors(tmp_path / NAME, {"a": both, "b": both.view(2, 3), "c": both.view(2, 3).T}, {})
        tensors = load_file(tmp_path / NAME)
        assert torch.equal(tensors["b"], both.view(2, 3))
        assert torch.equal(tensors["c"], both.view(2, 3).T)

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_pickle_is_never_read_unasked(self, tmp_path: Path, legacy: bool) -> None:
        # named like safetensors: the content decides, not the name
        path = _checkpoint(tmp_path / NAME, tiny_tensors(), _use_new_zipfile_serialization=not legacy)
        with pytest.raises(WeightsError, match=r"is a pickle.*--from-pickle"):
            read_tensors(path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{}", b"hello, this is text", b"\xff" * 64, tiny_weights()[:-1], tiny_weights()[:100]],
        ids=["empty", "short", "text", "bytes", "one byte short", "header cut"],
    )
    def test_damaged_files_are_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / NAME
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=NAME):
            read_tensors(path)

    def test_missing_files_and_folders_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="does not exist"):
            read_tensors(tmp_path / NAME)
        with pytest.raises(WeightsError, match="is a folder"):
            read_tensors(tmp_path)


class TestStrictLoad:
    """huggingface_hub's mixin loads what it can and leaves random weights elsewhere; here nothing is left over."""

    @pytest.fixture
    def net(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    def test_fits(self, net: nn.Module) -> None:
        other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).half()
        load_strict(net, other.state_dict(), what="other")
        assert torch.equal(net[0].weight, other[0].weight.float()), "cast to the module's type"
        assert net[0].weight.dtype == torch.float32

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"0.weight": None, "0.bias": None}, r"2 keys missing \(0.weight, 0.bias\)"),
            ({"extra": torch.zeros(1)}, r"1 key unknown \(extra\)"),
            ({"0.weight": torch.zeros(3, 4)}, r"0.weight \(file 3x4, model 3x2\)"),
            ({"1.num_batches_tracked": torch.tensor(0.5)}, r"file torch.float32, model torch.int64"),
            ({"0.weight": None, "more": torch.zeros(1)}, r"1 key missing \(0.weight\); 1 key unknown \(more\)"),
        ],
        ids=str,
    )
    def test_misfits_are_named_and_nothing_is_loaded(
        self, net: nn.Module, change: dict[str, torch.Tensor | None], message: str
    ) -> None:
        before = {key: value.clone() for key, value in net.state_dict().items()}
        tensors = {key: value + 1 for key, value in before.items()} | change
        with pytest.raises(WeightsError, match=message):
            load_strict(net, {k: v for k, v in tensors.items() if v is not None}, what="file")
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class TestConfig:
    """A weight file may bring constructor arguments for the model that the user names."""

    def test_they_replace_those_of_the_manifest(self, entry: CatalogEntry, tmp_path: Path) -> None:
        torch.manual_seed(0)
        wide = type(build(entry, None, device=CPU, dtype=torch.float32))(width=6)
        write_tensors(tmp_path / NAME, wide.state_dict(), {CONFIG: json.dumps({"width": 6})})
        found = FoundWeights(tmp_path / NAME, "path", None, "")
        module = build(entry, found, device=CPU, dtype=torch.float32)
        assert torch.equal(module.get_parameter("first.weight"), wide.first.weight)

    @pytest.mark.parametrize(
        ("config", "message"),
        [("[1]", "no JSON object"), ("{", "no JSON object"), ('{"depth": 9}', "cannot be constructed with the config")],
    )
    def test_what_the_model_does_not_take_is_refused(
        self, entry: CatalogEntry, tmp_path: Path, config: str, message: str
    ) -> None:
        write_tensors(tmp_path / NAME, tiny_tensors(), {CONFIG: config})
        with pytest.raises(WeightsError, match=message) as caught:
            build(entry, FoundWeights(tmp_path / NAME, "path", None, ""), device=CPU, dtype=torch.float32)
        assert NAME in str(caught.value)


class TestFind:
    def test_embedded_weights_are_found_verified_and_built(self, entry: CatalogEntry) -> None:
        found = find(entry)
        assert (found.origin, found.path) == ("embedded", entry.folder / "weights" / NAME)
        module = build(entry, found, device=CPU, dtype=torch.float64)
        assert not module.training
        assert torch.equal(module.state_dict()["last.bias"], tiny_tensors()["last.bias"].double())

    @pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"\0", lambda data: data[:-1], lambda data: b""])
    def test_embedded_weights_that_changed_are_refused(self, entry: CatalogEntry, damage: Any) -> None:
        path = entry.folder / "weights" / NAME
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(WeightsError, match=rf"{MODEL}:default.*Install {PACKAGE} again"):
            find(entry)

    def test_missing_embedded_weights_name_the_remedy(self, entry: CatalogEntry) -> None:
        (entry.folder / "weights" / NAME).unlink()
        with pytest.raises(WeightsError, match=f"is missing.*Install {PACKAGE} again"):
            find(entry)

    def test_a_file_of_the_user_comes_first_and_is_said_to_be_what_it_is(
        self, entry: CatalogEntry, tmp_path: Path
    ) -> None:
        same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
        same.write_bytes(tiny_weights())
        other.write_bytes(tiny_weights(seed=1))
        assert find(entry, weights=same).weight_set == entry.manifest.weights[0]
        found = find(entry, weights=other)
        assert (found.path, found.origin, found.weight_set) == (other, "path", None)
        with pytest.raises(WeightsError, match=r"nowhere.safetensors cannot be read"):
            find(entry, weights=tmp_path / "nowhere.safetensors")

    def test_an_unknown_set_gets_the_nearest(self, entry: CatalogEntry) -> None:
        with pytest.raises(UsageError, match="default"):
            find(entry, set_name="defualt")

    def test_a_config_that_the_model_refuses_is_the_packages_fault(self, entry: CatalogEntry) -> None:
        odd = CatalogEntry(entry.manifest.model_copy(update={"config": {"widht": 4}}), entry.package, entry.folder)
        with pytest.raises(UsageError, match="refuses the config"):
            build(odd, None, device=CPU, dtype=torch.float32)

    def test_expected_needs_no_memory(self, entry: CatalogEntry) -> None:
        assert {key: (tuple(t.shape), t.device.type) for key, t in expected(entry).items()}["last.bias"] == (
            (3,),
            "meta",
        )


class TestConvert:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("nest", [None, "params", "params_ema", "state_dict", "model"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    @pytest.mark.usefixtures("tiny")
    def test_every_usual_form_is_recognised(self, tmp_path: Path, nest: str | None, prefix: str, legacy: bool) -> None:
        theirs = {prefix + key: tensor for key, tensor in _theirs().items()}
        content = theirs if nest is None else {nest: theirs, "epoch": 3}
        path = _checkpoint(tmp_path / "c.pth", content, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(WeightsError, match="--from-pickle"):
            recognise_file(path)
        found = recognise_file(path, from_pickle=True)
        assert (found.model_id, found.what) == (MODEL, "Tiny, of another trainer")
        assert all(torch.equal(found.tensors[key], value) for key, value in tiny_tensors().items())

    @pytest.mark.usefixtures("tiny")
    def test_our_own_keys_need_no_recogniser(self, tmp_path: Path) -> None:
        save_file(tiny_tensors(), tmp_path / NAME)
        assert recognise_file(tmp_path / NAME).model_id == MODEL

    def test_prefixes_go_at_the_start_of_every_key_or_not_at_all(self) -> None:
        one = torch.zeros(1)
        assert unwrapped({"module.a.module.b": one}, origin="f")[0].keys() == {"a.module.b"}
        assert unwrapped({"module.a": one, "b": one}, origin="f")[0].keys() == {"module.a", "b"}
        # IMDN_RTC's own keys begin with `model.`
        assert unwrapped({"model.0.weight": one}, origin="f")[0].keys() == {"model.0.weight"}
        assert unwrapped({"params_ema.a": one, "params.a": one + 1}, origin="f")[0] == {"a": one}

    def test_the_average_is_preferred(self) -> None:
        tensors, how = unwrapped({"params": {"a": torch.ones(1)}, "params_ema": {"a": torch.zeros(1)}}, origin="f")
        assert (tensors["a"].item(), how) == (0, "state dict in 'params_ema'")

    @pytest.mark.usefixtures("tiny")
    def test_a_near_miss_names_the_nearest_and_the_first_missing_keys(self, tmp_path: Path) -> None:
        save_file({key: tensor for key, tensor in _theirs().items() if key != "tail.weight"}, tmp_path / NAME)
        with pytest.raises(WeightsError, match=r"Nearest, 75% .*another trainer \(tiny-x1\).* lacks tail.weight"):
            recognise_file(tmp_path / NAME)
        ours = tiny_tensors()
        ours["last.weight"] = torch.zeros(12, 4, 3, 3)
        save_file(ours, tmp_path / NAME)
        with pytest.raises(WeightsError, match=r"tiny-x1: .*last.weight \(file 12x4x3x3, model 3x4x3x3\)"):
            recognise_file(tmp_path / NAME)
        save_file({"B1.c1.weight": torch.zeros(2)}, tmp_path / NAME)
        with pytest.raises(WeightsError, match=r"first B1.c1.weight. No key agrees .*tiny-x1"):
            recognise_file(tmp_path / NAME)

    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path) -> None:
        trap = tmp_path / "trap"

        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (trap,))

        whole_model = _checkpoint(tmp_path / "model.pth", nn.Linear(1, 1))
        bomb = _checkpoint(tmp_path / "bomb.pth", {"state_dict": Bomb()})
        bare = tmp_path / "bare.pth"
        bare.write_bytes(pickle.dumps(Bomb()))
        for path in (whole_model, bomb, bare):
            with pytest.raises(WeightsError, match=path.name):
                recognise_file(path, from_pickle=True)
        assert not trap.exists()

    @pytest.mark.parametrize(
        "content",
        [3, [torch.zeros(1)], {}, {"epoch": 3}, {"a": torch.zeros(1), "b": "text"}, {1: torch.zeros(1)}],
        ids=str,
    )
    def test_what_is_no_state_dict_is_said_to_be_none(self, tmp_path: Path, content: Any) -> None:
        with pytest.raises(WeightsError, match=r"c\.pth holds"):
            recognise_file(_checkpoint(tmp_path / "c.pth", content), from_pickle=True)

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.usefixtures("tiny")
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cut=st.floats(0, 1), place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
    def test_whatever_is_damaged_there_is_a_sentence(
        self, tmp_path: Path, legacy: bool, cut: float, place: float, byte: int
    ) -> None:
        path = _checkpoint(tmp_path / "c.pth", _theirs(), _use_new_zipfile_serialization=not legacy)
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] = byte
        path.write_bytes(data[: max(1, int(cut * len(data)))])
        with contextlib.suppress(WeightsError):  # a byte of a tensor may well differ without harm
            recognise_file(path, from_pickle=True)

    def test_a_recogniser_that_is_wrong_is_caught(self, tiny: TinyPackage, tmp_path: Path) -> None:
        code = tiny.entry.folder / "convert.py"
        code.write_text(code.read_text().replace("if key in NAMES", 'if key in NAMES and "bias" not in key'))
        save_file(
            {
                "head.weight": torch.zeros(4, 3, 3, 3),
                "head.bias": torch.zeros(4),
                "tail.weight": torch.zeros(3, 4, 3, 3),
                "tail.bias": torch.zeros(3),
            },
            tmp_path / NAME,
        )
        with pytest.raises(ZooError, match="does not fit: 2 keys missing"):
            recognise_file(tmp_path / NAME)


class TestCommand:
    """`zoo weights`; what needs a hub is in test_hub.py."""

    @staticmethod
    def run(*arguments: str | Path) -> dict[str, Any]:
        done = CliRunner().invoke(command, [*map(str, arguments), "--format", "json"], catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(done.stdout.splitlines()[0])  # type: ignore[no-any-return]

    def test_ls_path_get_and_verify_agree(self, entry: CatalogEntry) -> None:
        path = str(entry.folder / "weights" / NAME)
        listed = self.run("ls", "tiny*")
        assert (listed["path"], listed["name"]) == (path, f"{MODEL}:default")
        assert self.run("path", "tiny")["path"] == path
        assert self.run("get", MODEL)["path"] == path
        assert self.run("verify")["state"] == "right"

    def test_convert_gives_weights_that_load(self, entry: CatalogEntry, tmp_path: Path) -> None:
        source, target = _checkpoint(tmp_path / "c.pth", {"params": _theirs()}), tmp_path / "out.safetensors"
        said = self.run("convert", source, "--from-pickle")
        assert (said["model"], said["written"]) == (MODEL, None)
        self.run("convert", source, "--from-pickle", "-o", target)
        _, metadata = read_tensors(target)
        assert metadata["zoo.source_sha256"] == sha256_of(source)
        build(entry, find(entry, weights=target), device=CPU, dtype=torch.float32)
        with pytest.raises(InputError, match="--overwrite"):
            self.run("convert", source, "--from-pickle", "-o", target)


class TestGolden:
    def test_it_is_kept_in_the_package_and_published_from_there(self, entry: CatalogEntry) -> None:
        weights = entry.folder / "weights" / NAME
        path = golden_path(entry, entry.manifest.weights[0])
        assert path == entry.folder / "golden" / f"{MODEL}.safetensors"
        TestCommand.run("golden", MODEL)
        module = build(entry, find(entry), device=CPU, dtype=torch.float32)
        assert golden_difference(module, load_file(path), what="golden") == 0
        with pytest.raises(InputError, match="exists already"):
            TestCommand.run("golden", MODEL)

        mine = torch.full((1, 3, 5, 7), 0.5)  # one that nobody would make up
        with torch.no_grad():
            write_tensors(path, {"input": mine, "output": module(mine)}, {}, overwrite=True)
        files = assemble(entry, weights, licence="MIT", trained_on="noise").files
        published = files["golden.safetensors"]
        assert isinstance(published, bytes)
        assert torch.equal(load(published)["input"], mine)

    def test_weights_that_do_not_give_it_are_not_published(self, entry: CatalogEntry) -> None:
        path = golden_path(entry, entry.manifest.weights[0])
        write_tensors(path, {"input": torch.zeros(1, 3, 5, 7), "output": torch.ones(1, 3, 5, 7)}, {})
        with pytest.raises(WeightsError, match=r"does not give the golden output.*zoo weights golden tiny-x1"):
            assemble(entry, entry.folder / "weights" / NAME, licence="MIT", trained_on="noise")

    def test_other_weights_than_those_of_the_set_get_their_own(self, entry: CatalogEntry, tmp_path: Path) -> None:
        path = golden_path(entry, entry.manifest.weights[0])
        write_tensors(path, {"input": torch.zeros(1, 3, 5, 7), "output": torch.ones(1, 3, 5, 7)}, {})
        other = tmp_path / "other.safetensors"
        other.write_bytes(tiny_weights(seed=1))
        files = assemble(entry, other, licence="MIT", trained_on="noise").files
        published = files["golden.safetensors"]
        assert isinstance(published, bytes)
        assert load(published)["input"].shape == (1, 3, 24, 32)


def test_the_card_says_what_the_manifest_says(entry: CatalogEntry) -> None:
    metric = {
        "name": "psnr_y",
        "value": 32.1,
        "dataset": "set5",
        "protocol": "a|b",
        "by": "ours",
        "command": "zoo eval",
    }
    manifest = entry.manifest.model_validate({**entry.manifest.model_dump(), "metrics": [metric], "limits": ["RGB"]})
    ours = WeightSet.model_validate(weight_set(b"x", licence="A licence of its own"))
    card = card_text(manifest, ours, record={"steps": 3, "commit": None, "recipe": {"seed": 1}})
    front = card.split("---\n")[1]
    assert (
        "license: other\nlicense_name: A licence of its own\nlibrary_name: zoo\npipeline_tag: image-to-image" in front
    )
    assert "value: 32.1" in front
    assert "| set5 | psnr_y | 32.1 | ours | a\\|b | `zoo eval` |" in card
    assert "- RGB" in card
    assert ours.sha256 in card
    assert "```yaml\nseed: 1\n```" in card
    assert "commit" not in card

"""Recipes: what a person writes is what the run gets, and a slip is named with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from zoo_core.config import dump_recipe, load_recipe, parse_yaml, recipe_hash
from zoo_core.errors import UsageError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = 16
    rate: float = 1e-3


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = 10
    name: str = "x"
    on: bool = False
    betas: tuple[float, float] = (0.9, 0.99)
    weights: Path | None = None
    mode: Literal["no", "yes"] = "no"
    net: Section = Section()
    smoke: dict[str, object] = {}


def load(tmp_path: Path, text: str, *overrides: str, smoke: bool = False) -> Schema:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, list(overrides), Schema, smoke=smoke)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("-.inf", float("-inf")), ("12", 12), ("010", 10),
        ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("true", True), ("False", False), ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("1_000", "1_000"), ("0x1f", "0x1f"), ("1.2.3", "1.2.3"),
        ("'12'", "12"), ("[1, 2e-1]", [1, 0.2]), ("{a: no}", {"a": "no"}), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    # PyYAML alone reads 1e-3 as a string, no as False, 010 as 8, 1:30 as 90 and 2024-01-01 as a date
    read = parse_yaml(text, origin="x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: 'a' is given twice"),
        ("a: &x 1\nb: *x", "line 2: aliases"),
        ("a: !!python/object/apply:os.system [ls]", "line 1"),
        ("a: [1", "line"),
        ("1: 2", "the key 1 is no name"),
        ("[" * 5000, "RecursionError"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_yaml(text, origin="r.yaml")


def test_overrides_win_over_smoke_and_smoke_over_the_file(tmp_path: Path) -> None:
    text = "steps: 100\nnet: {width: 8}\nsmoke: {steps: 5, net: {rate: 1e-2}}"
    assert load(tmp_path, text).steps == 100
    smoke = load(tmp_path, text, "steps=7", "net.width=4", smoke=True)
    assert (smoke.steps, smoke.net.width, smoke.net.rate) == (7, 4, 0.01)
    assert load(tmp_path, text, "betas=[0.5,0.6]", "mode=no", "name=off", "weights=a.st").betas == (0.5, 0.6)
    assert load(tmp_path, text, "weights=~", "name='12'").name == "12"


def test_whole_floats_may_stand_for_integers(tmp_path: Path) -> None:
    assert load(tmp_path, "steps: 1e5", "net.width=2e1") == Schema(steps=100_000, net=Section(width=20))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stesp: 3", [], r"recipe.yaml: there is no key 'stesp'. Did you mean 'steps'\?"),
        ("net: {widht: 3}", [], r"no key 'net.widht'. Did you mean 'net.width'\?"),
        ("width: 3", [], r"no key 'width'. Did you mean 'net.width'\?"),
        ("", ["net.wdth=3"], r"override 'net.wdth=3': there is no key 'net.wdth'. Did you mean 'net.width'\?"),
        ("steps: many", [], r"steps is 'many'; expected a valid integer"),
        ("steps: 1.5", [], r"steps is 1.5; expected a valid integer"),
        ("steps: true", [], r"steps is True; expected a valid integer"),
        ("name: 3", [], r"name is 3; expected a valid string"),
        ("on: no", [], r"on is 'no'; expected a valid boolean"),
        ("", ["net.rate=fast"], r"override 'net.rate=fast': net.rate is 'fast'; expected a valid number"),
        ("mode: maybe", [], r"mode is 'maybe'; expected 'no' or 'yes'"),
        ("", ["steps"], r"'steps' is no override. Write key=value"),
        ("- 1", [], "a recipe is a list of `key: value` lines"),
    ],
)
def test_slips_are_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, text or "{}", *overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: the recipe cannot be read"):
        load_recipe(tmp_path / "none.yaml", [], Schema)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30) | st.sampled_from(
    ["no", "1e-3", "~", "", "010", "true", "2024-01-01", "1:30", " x ", "#a", "a: b", "- a"]
)


@given(
    st.builds(
        Schema,
        steps=st.integers(),
        name=texts,
        on=st.booleans(),
        betas=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2),
        mode=st.sampled_from(["no", "yes"]),
        net=st.builds(Section, width=st.integers(), rate=st.floats(allow_nan=False, allow_infinity=False)),
        smoke=st.dictionaries(texts, st.integers() | texts | st.none(), max_size=3),
    )
)
def test_a_dumped_recipe_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Schema) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(path, [], Schema)
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


def test_the_hash_leaves_out_what_it_is_told_to() -> None:
    assert recipe_hash(Schema(steps=1), without={"steps"}) == recipe_hash(Schema(steps=2), without={"steps"})
    assert recipe_hash(Schema(steps=1)) != recipe_hash(Schema(steps=2))


def test_recipes_need_no_torch() -> None:
    # a wrong key must show in a tenth of a second, not after importing a deep learning framework
    code = (
        "import sys, zoo_core.config, zoo_core.train.recipe\n"
        "sys.exit(bool({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

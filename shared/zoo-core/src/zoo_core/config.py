"""Recipe files: YAML plus `key=value` overrides -> a validated object. No torch here.

The YAML is the 1.2 core schema, so that `1e-3` is a number and `no`, `on`, `off` and `2024-01-01` are the strings they
look like. It names no classes, includes nothing and refuses aliases; a key that is written twice is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import types
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from zoo_core.errors import UsageError, did_you_mean

RecipeT = TypeVar("RecipeT", bound=BaseModel)

# The YAML 1.2 core schema: tag, pattern, first characters
_SCALARS = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """Plain data only; scalars by the 1.2 core schema."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (own, so that PyYAML's list stays as it is)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed here", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_integer(self, node: Any) -> int:
        # the inherited one reads 010 as octal
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged, and quotes what a YAML 1.1 reader would take for something else."""

    yaml_implicit_resolvers: dict[Any, Any] = {  # noqa: RUF012
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def parse_yaml(text: str, *, origin: str) -> Any:
    """Return the data of one YAML document.

    Args:
        text: the document.
        origin: file name or override, for messages.

    Raises:
        UsageError: not YAML, a key given twice, an alias, a tag; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader with fewer rules)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}:" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UsageError(
            f"{origin}:{place} {problem}.", "A recipe is `key: value` lines and sections of them."
        ) from error


def load_recipe(path: Path, overrides: Collection[str], schema: type[RecipeT], *, smoke: bool = False) -> RecipeT:
    """Read a recipe, lay the `smoke` section (if asked for) and then the overrides over it, and validate the result.

    Args:
        path: YAML file, a mapping at its top.
        overrides: `key=value` or `section.key=value`; the value is read as YAML.
        schema: what the recipe must look like.
        smoke: also apply the recipe's own `smoke` section, which makes a run that ends in seconds.

    Raises:
        UsageError: unreadable file; an unknown key (with the nearest one and its path); a value of the wrong type (with
            path, value and what was expected); an override without `=`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the recipe cannot be read ({error}).") from error
    data = parse_yaml(text, origin=str(path))
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a recipe is a list of `key: value` lines.")
    if smoke:
        data = merged(data, data.get("smoke") or {})
    sources = {}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise UsageError(f"{override!r} is no override.", "Write key=value or section.key=value.")
        sources[key] = f"override {override!r}"
        data = merged(data, _nested(key.split("."), parse_yaml(value, origin=f"override {override!r}")))
    return validated(data, schema, origin=str(path), sources=sources)


def validated(
    data: dict[str, Any], schema: type[RecipeT], *, origin: str, sources: dict[str, str] | None = None
) -> RecipeT:
    """Turn plain data into a `schema` object; strict, but 1e5 may stand where an integer is due.

    Args:
        data: what a YAML file or JSON held.
        schema: a pydantic model.
        origin: the file, for messages.
        sources: dotted key -> where its value came from, if not from `origin`.

    Raises:
        UsageError: as `load_recipe`.
    """
    for last_try in (False, True):
        try:
            # through JSON: strict about types, yet a list may stand for a tuple and a string for a path
            return schema.model_validate_json(json.dumps(data, default=str), strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            whole = [p for p in problems if p["type"] == "int_type" and _is_whole(p["input"])]
            if last_try or not whole:
                # an unknown key first: it often is what makes another one missing
                problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
                raise _complaint(problem, schema, origin, sources or {}) from error
            for p in whole:
                data = _with(data, p["loc"], int(p["input"]))
    raise AssertionError("unreachable")


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _with(data: Any, place: tuple[int | str, ...], value: Any) -> Any:
    if not place:
        return value
    first, *rest = place
    copy = list(data) if isinstance(data, list) else dict(data)
    copy[first] = _with(copy[first], tuple(rest), value)  # type: ignore[index]
    return copy


def _complaint(problem: Any, schema: type[BaseModel], origin: str, sources: dict[str, str]) -> UsageError:
    place = ".".join(str(part) for part in problem["loc"])
    origin = sources.get(place, origin)
    if problem["type"] == "extra_forbidden":
        *parents, word = (str(part) for part in problem["loc"])
        known = list(_keys(schema))
        section = "".join(f"{parent}." for parent in parents)
        siblings = [
            k.removeprefix(section) for k in known if k.startswith(section) and "." not in k.removeprefix(section)
        ]
        elsewhere = [key for key in known if key.rpartition(".")[2] == word]
        remedy = f"Did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(word, siblings)
        if not elsewhere and section:
            remedy = remedy.replace("Did you mean '", f"Did you mean '{section}")
        return UsageError(f"{origin}: there is no key {place!r}.", remedy)
    if problem["type"] == "missing":
        return UsageError(f"{origin}: the key {place!r} is missing.")
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if not place:
        return UsageError(f"{origin}: {expected}.")
    return UsageError(f"{origin}: {place} is {problem['input']!r}; expected {expected}.")


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of a schema and its sections."""
    for name, info in schema.model_fields.items():
        yield prefix + name
        for section in _sections(info.annotation):
            yield from _keys(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _sections(part)


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    return {first: _nested(rest, value) if rest else value}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it: sections merge key by key, everything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def dump_recipe(recipe: BaseModel) -> str:
    """Return the recipe with every key as YAML text; `load_recipe` reads it back equal."""
    text: str = yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    return text


def recipe_hash(recipe: BaseModel, *, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of the recipe's values, whatever the order of its keys.

    Args:
        recipe: the resolved recipe.
        without: top-level keys that do not count.
    """
    values = {key: value for key, value in recipe.model_dump(mode="json").items() if key not in without}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

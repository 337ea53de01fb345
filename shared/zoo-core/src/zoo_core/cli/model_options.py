"""Commands with options of a model: made from a package's class, so that each is described and checked in one place.

Such a command has its own options and, once the model is known, those of the class that the model's manifest names.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from zoo_core import catalog
from zoo_core.cli.output import Output
from zoo_core.errors import ZooError

_FORMAT = "format"
# keeps the names of the model's options apart from those of the command
_PREFIX = "model_option_"


class ModelCommand(click.Command):
    """A command that takes the options of the model that its arguments name.

    Args:
        room: of the manifest's entry, where the class of these options is.
    """

    def __init__(self, *args: Any, room: catalog.Room, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.room = room

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Find the model in the arguments, add its options, and parse."""
        model = self._model(args, parent)
        if model is None:
            return super().make_context(info_name, args, parent, **extra)
        command = _CommandOfModel(self, catalog.find(model))
        return command.make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say where the options of a model are shown."""
        formatter.write_paragraph()
        formatter.write_text(
            f"A model may have options of its own: zoo {self.name} ID --help shows them, zoo list shows the ids."
        )

    def _model(self, args: list[str], parent: click.Context | None) -> str | None:
        """Return the first argument that is a model's name, else the first argument, None if there is none."""
        # options of a model are not known yet, so that their values look like arguments too: hence the first *name*
        context = click.Context(self, parent=parent, resilient_parsing=True, ignore_unknown_options=True)
        try:
            values, rest, _ = self.make_parser(context).parse_args(list(args))
        except click.UsageError:
            return None  # parsed again in earnest, and said there
        inputs = values.get("inputs")
        found = [values.get("model"), *(inputs if isinstance(inputs, tuple) else ()), *rest]
        words = [word for word in found if isinstance(word, str) and not word.startswith("-")]
        names = {name for entry in catalog.models() for name in entry.names}
        return next((word for word in words if word in names), words[0] if words else None)


class _CommandOfModel(click.Command):
    """A command with the options of one model, which its help shows apart."""

    def __init__(self, command: ModelCommand, entry: catalog.CatalogEntry) -> None:
        taken = frozenset(name for param in command.params for name in param.opts) | {"--help", "--debug"}
        schema = entry.code(command.room) if getattr(entry.manifest.entry, command.room) is not None else None
        self.shared = [file_formats(p, schema) if schema and p.name == "out" else p for p in command.params]
        self.own = click_options(schema, taken=taken) if schema else []
        self.title = f"Options of {entry.manifest.id}"
        super().__init__(command.name, params=[*self.shared, *self.own], callback=command.callback, help=command.help)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's options and the model's as two sections."""
        own = set(map(id, self.own))
        for title, wanted in (("Options", False), (self.title, True)):
            parameters = [p for p in self.get_params(ctx) if (id(p) in own) is wanted]
            lines = [record for record in (p.get_help_record(ctx) for p in parameters) if record]
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)


def click_options(schema: type[BaseModel], *, taken: frozenset[str]) -> list[click.Option]:
    """Return one click option a field: `image_format` becomes `--image-format`, a bool a flag.

    Args:
        schema: the options class; the descriptions of its fields become the help.
        taken: option names of the command itself. A field `format` is no new option: see `file_formats`.

    Raises:
        ZooError: a field would hide an option of the command.
    """
    options = []
    for name, field in schema.model_fields.items():
        if name == _FORMAT:
            continue
        flag = f"--{name.replace('_', '-')}"
        if flag in taken:
            raise ZooError(f"{schema.__module__}:{schema.__name__}.{name} hides {flag} of the command.", "Rename it.")
        options.append(_option(name, flag, field))
    return options


def file_formats(option: click.Parameter, schema: type[BaseModel]) -> click.Parameter:
    """Return the command's `--format` with what the model can write besides.

    A model whose results are files of text has a field `format`. Its values join those of the command: `human` and
    `json` say how results are printed, the others what is written, and `json` both if it is among them.
    """
    if _FORMAT not in schema.model_fields:
        return option
    field = schema.model_fields[_FORMAT]
    files = [str(value) for value in get_args(_without_none(field.annotation))]
    printed = ["human", "json"]

    def choose(context: click.Context, _parameter: click.Parameter, value: str) -> Output:
        if value in files:
            context.params[_PREFIX + _FORMAT] = value
        return Output("json" if value == "json" else "human")

    return click.Option(
        ["--format", option.name or "out"],
        type=click.Choice([*printed, *(name for name in files if name not in printed)]),
        default="human",
        show_default=True,
        callback=choose,
        help=f"json: one JSON object a line on stdout. {field.description or ''}".rstrip(),
    )


def chosen(context: click.Context) -> dict[str, Any]:
    """Return what the user gave of the model's options: field name -> value, not yet checked."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in context.params.items()
        if name.startswith(_PREFIX) and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def _option(name: str, flag: str, field: FieldInfo) -> click.Option:
    kind = _without_none(field.annotation)
    settings: dict[str, Any] = {"help": _help(field, kind)}
    if kind is bool and field.default is True:
        flag = f"{flag}/--no-{flag[2:]}"
    elif kind is bool:
        settings["is_flag"] = True
    elif get_origin(kind) is Literal:
        settings["type"] = _OneOf({str(value): value for value in get_args(kind)})
    else:
        settings["metavar"] = _metavar(kind)
        settings["multiple"] = get_origin(kind) in (tuple, list)
    return click.Option([flag, _PREFIX + name], **settings)


class _OneOf(click.Choice[str]):
    """A choice whose members need not be strings."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        super().__init__(list(members))
        self.members = members

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.members[super().convert(value, param, ctx)]


def _help(field: FieldInfo, kind: Any) -> str:
    """Return the description with the range and the default."""
    bounds = {
        name: getattr(limit, name)
        for limit in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(limit, name)
    }
    facts = []
    if "ge" in bounds and "le" in bounds:
        facts.append(f"{bounds['ge']} to {bounds['le']}")
    else:
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        facts += [f"{words[name]} {bound}" for name, bound in bounds.items()]
    if kind is bool:
        facts += ["default on"] if field.default is True else []
    elif field.default not in (None, PydanticUndefined):
        facts.append(f"default {field.default}")
    text = field.description or ""
    return f"{text} [{'; '.join(facts)}]" if facts else text


def _without_none(annotation: Any) -> Any:
    """Return `X` for `X | None`, anything else as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = tuple(part for part in get_args(annotation) if part is not type(None))
        return rest[0] if len(rest) == 1 else Union[rest]  # noqa: UP007 (made at run time)
    return annotation


def _metavar(kind: Any) -> str:
    """Return what stands for the value in the help, such as `INT|auto`."""
    if get_origin(kind) in (Union, types.UnionType):
        return "|".join(_metavar(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return "|".join(str(value) for value in get_args(kind))
    if get_origin(kind) in (tuple, list):
        return _metavar(get_args(kind)[0])
    return str(getattr(kind, "__name__", "VALUE")).upper()

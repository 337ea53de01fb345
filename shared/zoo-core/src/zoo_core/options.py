"""What a user may choose when a model predicts or is measured: frozen pydantic classes, which are also the `--help`.

Neither torch nor numpy here: `zoo predict ID --help` and `zoo eval ID --help` read these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from zoo_core.errors import UsageError, did_you_mean


class Options(BaseModel):
    """Base of a package's options; every field has a description, which is its line in `zoo predict ID --help`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluateOptions(Options):
    """Base of what a package's evaluation may be asked beyond the options that all have."""

    @property
    def needs_data(self) -> bool:
        """Whether `--data` must name a pack; False where other options say what is measured."""
        return True


Chosen = TypeVar("Chosen", bound=Options)


def parse_options(schema: type[Chosen], values: Mapping[str, Any], *, model: str, verb: str = "predict") -> Chosen:
    """Check what the user chose.

    Args:
        schema: the options class of the package.
        values: field name -> value, as given on the command line or in Python.
        model: id of the model, for messages.
        verb: of the command whose options they are, for messages.

    Raises:
        UsageError: an unknown name (with the nearest known one) or a value out of place.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{model} has no option {field!r}.", did_you_mean(field, schema.model_fields)) from error
        what = first["msg"].removeprefix("Value error, ")
        place = f"--{field.replace('_', '-')}: " if field else ""
        got = "" if first["type"] == "value_error" else f" (given: {first['input']!r})"
        raise UsageError(f"{place}{what}{got}.", f"zoo {verb} {model} --help lists the options.") from error

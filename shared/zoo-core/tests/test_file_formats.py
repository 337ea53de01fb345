"""`--format` of a model that writes text: what is printed and what is written are one option."""

from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from zoo_core.cli.model_options import chosen, click_options, file_formats
from zoo_core.cli.output import Output, format_option
from zoo_core.options import Options


class Writes(Options):
    format: Literal["txt", "json", "alto"] = Field(default="txt", description="Files of the results.")
    draw: bool = Field(default=False, description="A drawing.")


class Pictures(Options):
    draw: bool = Field(default=False, description="A drawing.")


def command_of(schema: type[Options]) -> click.Command:
    @click.command()
    @format_option
    @click.pass_context
    def plain(context: click.Context, out: Output, **_: Any) -> None:
        click.echo(f"{out.form} {chosen(context)}")

    shared = [file_formats(parameter, schema) for parameter in plain.params]
    return click.Command("x", params=[*shared, *click_options(schema, taken=frozenset())], callback=plain.callback)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ([], "human {}"),
        (["--format", "human"], "human {}"),
        (["--format", "alto"], "human {'format': 'alto'}"),
        (["--format", "json"], "json {'format': 'json'}"),
        (["--format", "txt", "--draw"], "human {'format': 'txt', 'draw': True}"),
    ],
)
def test_one_option_says_what_is_printed_and_what_is_written(given: list[str], printed: str) -> None:
    assert CliRunner().invoke(command_of(Writes), given).output.strip() == printed


def test_models_without_formats_of_their_own_have_the_plain_option() -> None:
    assert CliRunner().invoke(command_of(Pictures), ["--format", "json"]).output.strip() == "json {}"
    refused = CliRunner().invoke(command_of(Pictures), ["--format", "alto"])
    assert (refused.exit_code, "'human', 'json'" in refused.output) == (2, True)


def test_help_lists_all_of_them() -> None:
    assert "[human|json|txt|alto]" in CliRunner().invoke(command_of(Writes), ["--help"]).output

"""The `zoo` command: a table of verbs, each loaded when it is used. Help needs click and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from zoo_core import __version__
from zoo_core.cli import output
from zoo_core.errors import UsageError, did_you_mean

# verb -> (where its click command is, one line for the help)
VERBS = {
    "list": ("zoo_core.cli.list:command", "Show the installed models."),
    "info": ("zoo_core.cli.info:command", "Show everything about one model, or say what a weights file is."),
    "predict": ("zoo_core.cli.predict:command", "Run a model on files, folders, globs or stdin."),
    "train": ("zoo_core.cli.train:command", "Train a model by its recipe; resumes where it was stopped."),
    "eval": ("zoo_core.cli.eval:command", "Measure a model by the protocol of its paper."),
    "bench": ("zoo_core.cli.bench:command", "Time a model against its alternatives, after comparing the outputs."),
    "weights": ("zoo_core.cli.weights:command", "List, fetch, verify, convert and publish weights."),
    "doctor": ("zoo_core.cli.doctor:command", "Say what is wrong with this environment."),
    "export": ("zoo_core.cli.later:export", "Write a model for another runtime (release 0.2)."),
    "serve": ("zoo_core.cli.later:serve", "Answer HTTP requests with a model (release 0.3)."),
    "demo": ("zoo_core.cli.later:demo", "Try a model in the browser (release 0.3)."),
}
ALIASES = {"ls": "list"}
EPILOG = """\
Exit codes: 0 all good, 1 failed, 2 usage, 3 some inputs failed and the others were written, 4 weights missing or
wrong, 5 the environment lacks something, 130 interrupted, 143 terminated after saving."""


class VerbGroup(click.Group):
    """A click group that imports the module of a verb when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of a verb, None if there is none."""
        verb = ALIASES.get(cmd_name, cmd_name)
        if verb not in VERBS:
            return None
        from zoo_core.catalog import load_object

        command: click.Command = load_object(VERBS[verb][0])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that the arguments name; a mistyped one gets the nearest."""
        name = args[0]
        if not name.startswith("-") and name not in VERBS and name not in ALIASES:
            raise UsageError(f"There is no command {name!r}.", did_you_mean(name, VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.group(
    cls=VerbGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the trace of an error; may stand anywhere.")
@click.version_option(__version__, prog_name="zoo")
def zoo() -> None:
    """Domain models that install one by one, and can be trusted."""


def main(arguments: Sequence[str] | None = None, command: click.Command = zoo, name: str = "zoo") -> None:
    """Run a command, by default `zoo`, and exit the process with the code that the table of exit codes gives."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # file names may hold bytes that are no text; showing them must not be what fails
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # `--debug` may stand anywhere before a `--`, so it is taken out before the verbs parse the rest
    end = given.index("--") if "--" in given else len(given)
    options = [argument for argument in given[:end] if argument != "--debug"]
    sys.exit(_run(command, name, options + given[end:], debug=len(options) < end))


def _run(command: click.Command, name: str, arguments: list[str], *, debug: bool) -> int:
    try:
        outcome: Any = command.main(arguments, prog_name=name, standalone_mode=False, obj={"debug": debug})
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        output.note(error.format_message())
        return error.exit_code
    except click.UsageError as error:
        return output.fail(_usage_error(error), debug=debug)
    except click.ClickException as error:
        return output.fail(UsageError(error.format_message()), debug=debug)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return output.reader_left()
    except Exception as error:
        return output.fail(error, debug=debug)
    # click returns the exit code of `ctx.exit(code)`; a command that just returns is fine
    return outcome if isinstance(outcome, int) else 0


def _usage_error(error: click.UsageError) -> UsageError:
    """Say a usage error of click the way we say ours."""
    where = error.ctx.command_path if error.ctx else "zoo"
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [name for p in error.ctx.command.get_params(error.ctx) for name in (*p.opts, *p.secondary_opts)]
        nearest = did_you_mean(error.option_name, [name for name in known if name.startswith("--")])
        remedy = nearest if nearest.startswith("Did") else f"{where} --help"
        return UsageError(f"{where} has no option {error.option_name!r}.", remedy)
    return UsageError(error.format_message(), f"{where} --help")

"""The only place that prints.

stdout carries results and nothing else: text for people, or with `--format json` one object a line that names its
schema. Notes, warnings, hints and progress go to stderr. Colour and progress appear on terminals alone, and NO_COLOR
turns the colour off.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Literal, TextIO, TypeAlias

import click

from zoo_core.errors import MissingDependencyError, ZooError

Row: TypeAlias = Mapping[str, Any]
Form: TypeAlias = Literal["human", "json"]


class Output:
    """Where the results of one command go; a command takes it as `out` through `@format_option`."""

    def __init__(self, form: Form = "human") -> None:
        self.form: Form = form

    @property
    def is_json(self) -> bool:
        """Whether the results are read by a program."""
        return self.form == "json"

    def result(self, schema: str, data: Row, text: str) -> None:
        """Print one result.

        Args:
            schema: name and version of what `data` holds, such as `zoo.info/1`.
            data: JSON-able; paths become strings, values that are not finite become null.
            text: the same for a person; an empty one prints nothing.
        """
        if self.is_json:
            self._line(json.dumps(_plain({"schema": schema, **data}), ensure_ascii=False, allow_nan=False))
        elif text:
            self._line(text)

    def table(
        self,
        schema: str,
        rows: Sequence[Row],
        columns: Mapping[str, Callable[[Row], str]],
        *,
        right: Collection[str] = (),
    ) -> None:
        """Print rows: aligned columns for a person, one object a row for a program.

        Args:
            schema: name and version of what a row holds.
            rows: JSON-able records.
            columns: heading -> how a record is shown there.
            right: headings of columns that hold figures.
        """
        if self.is_json:
            for row in rows:
                self.result(schema, row, "")
        elif rows:
            cells = [[show(row) for show in columns.values()] for row in rows]
            for line in aligned([list(columns), *cells], right=[name in right for name in columns]):
                self._line(line)

    @staticmethod
    def _line(text: str) -> None:
        # flushed at once: a program that reads us sees a result when it is there, and a closed pipe shows here
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise click.exceptions.Exit(reader_left()) from None


def _choose_form(_context: click.Context, _parameter: click.Parameter, value: Form) -> Output:
    return Output(value)


# Gives a command its `out: Output`.
format_option = click.option(
    "--format",
    "out",
    type=click.Choice(["human", "json"]),
    default="human",
    show_default=True,
    callback=_choose_form,
    help="Results as text, or as one JSON object a line.",
)


def note(text: str) -> None:
    """Tell the user what is going on."""
    _tell(text)


def warn(text: str) -> None:
    """Tell the user that something may not be as expected."""
    _tell(text, label="warning:", colour="yellow")


def hint(command: str) -> None:
    """Name the next command that the user may want."""
    _tell(command, label="next:", colour="cyan")


def problem(error: BaseException, *, trace: bool = False) -> None:
    """Say what went wrong and, on a second line, what to do about it; with `trace` first how it came about."""
    if trace:
        sys.stderr.write("".join(traceback.format_exception(error)))
    if isinstance(error, ZooError):
        _tell(error.message, label="error:", colour="red")
        if error.remedy:
            _tell(error.remedy, label="try:", colour="cyan")
    else:
        _tell(f"{type(error).__name__}: {error}".rstrip(": "), label="error:", colour="red")


def fail(error: BaseException, *, debug: bool = False) -> int:
    """Show an error that ended a command, with its trace if asked, and return the exit code."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = MissingDependencyError(
            f"The module {error.name} is not installed.", "zoo doctor says what is missing."
        )
        missing.__cause__ = error
        error = missing
    problem(error, trace=debug)
    if isinstance(error, ZooError):
        return error.exit_code
    if not debug:
        _tell("This is a fault in zoo or in the model's package; --debug shows where.", label="try:", colour="cyan")
    return 1


@contextmanager
def progress(what: str) -> Iterator[Callable[[float, float], None]]:
    """Show a progress bar on stderr while the block runs, if stderr is a terminal.

    Args:
        what: label of the bar.

    Yields:
        a function that is told how many steps are done, of how many.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich moves the bar out of the way of result lines, but only where those go to a terminal too: in a pipe they
    # must stay on stdout
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as display:
        bar = display.add_task(what, total=None)
        yield lambda done, total: display.update(bar, completed=done, total=total)


@contextmanager
def log_on_stderr(*packages: str) -> Iterator[None]:
    """Show what these packages log, as training does, as notes and warnings while the block runs."""
    handler = _LogOnStderr()
    loggers = [logging.getLogger(name) for name in packages]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class _LogOnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        (warn if record.levelno >= logging.WARNING else note)(record.getMessage())


def aligned(rows: Sequence[Sequence[str]], *, right: Sequence[bool] = ()) -> list[str]:
    """Return rows of cells as lines with columns two spaces apart; `right` says which columns are flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    flush = [*right, *[False] * (len(widths) - len(right))]
    return [
        "  ".join(
            cell.rjust(w) if to_right else cell.ljust(w) for cell, w, to_right in zip(row, widths, flush, strict=True)
        ).rstrip()
        for row in rows
    ]


def short_bytes(count: int) -> str:
    """Return a size as a person reads it, such as `2.9 MB` (powers of 1000, as disks and downloads count)."""
    return _short(count, ("B", "kB", "MB", "GB", "TB"))


def short_count(count: int) -> str:
    """Return a number of things as a person reads it, such as `715 k`."""
    return _short(count, ("", "k", "M", "G", "T"))


def reader_left() -> int:
    """Let nothing more be written to stdout, whose reader has seen enough (`zoo list | head`).

    Returns:
        the exit code that a shell shows for any Unix tool in that place, 128 + SIGPIPE.
    """
    # without this Python would complain when it flushes stdout at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _short(count: int, units: Sequence[str]) -> str:
    value, unit = float(count), 0
    # 999.5 would be shown as 1000: it belongs to the next unit
    while value >= 999.5 and unit + 1 < len(units):
        value, unit = value / 1000, unit + 1
    digits = 1 if unit and value < 99.5 else 0
    return f"{value:.{digits}f} {units[unit]}".rstrip()


def _tell(text: str, *, label: str = "", colour: str | None = None) -> None:
    if label:
        text = f"{_coloured(label, colour, sys.stderr)} {text}"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _coloured(text: str, colour: str | None, stream: TextIO) -> str:
    plain = colour is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else click.style(text, fg=colour, bold=True)


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: paths as strings, tuples as lists, nothing that is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value

"""Verbs that have their place in the grammar and come with a later release."""

from __future__ import annotations

import click

from zoo_core.errors import UsageError

_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]}


@click.command("export", context_settings=_ANY_ARGUMENTS)
def export() -> None:
    """Write a model for another runtime (onnx, openvino, torch.export). Comes with release 0.2."""
    raise UsageError("`zoo export` comes with zoo 0.2.")


@click.command("serve", context_settings=_ANY_ARGUMENTS)
def serve() -> None:
    """Answer HTTP requests with one or more models. Comes with release 0.3."""
    raise UsageError("`zoo serve` comes with zoo 0.3.")


@click.command("demo", context_settings=_ANY_ARGUMENTS)
def demo() -> None:
    """Try a model in the browser. Comes with release 0.3."""
    raise UsageError("`zoo demo` comes with zoo 0.3.")

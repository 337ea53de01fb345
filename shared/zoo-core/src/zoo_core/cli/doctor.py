"""`zoo doctor`: what is wrong with this environment."""

from __future__ import annotations

import textwrap

import click

from zoo_core import doctor
from zoo_core.cli import output
from zoo_core.errors import MissingDependencyError

SCHEMA = "zoo.doctor/1"


@click.command("doctor")
@click.option("--network", is_flag=True, help="Also ask whether the hub answers; nothing else here uses the network.")
@output.format_option
@click.pass_context
def command(context: click.Context, network: bool, out: output.Output) -> None:
    """Say what is wrong with this environment: exit code 0 if nothing is, 5 otherwise."""
    problems = 0
    with output.progress("looking"):
        for finding in doctor.examine(network=network):
            problems += finding.level == "problem"
            out.result(SCHEMA, finding.as_dict(), _text(finding))
    if problems:
        output.note("1 problem found." if problems == 1 else f"{problems} problems found.")
        context.exit(MissingDependencyError.exit_code)


def _text(finding: doctor.Finding) -> str:
    lines = [f"{finding.level:<7}  {finding.topic:<11}  {finding.what}"]
    if finding.remedy:
        lines.append(f"{'':22}try: {finding.remedy}")
    if finding.trace and finding.level == "problem":
        lines.append(textwrap.indent(finding.trace.rstrip(), " " * 22))
    return "\n".join(lines)

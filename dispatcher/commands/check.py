"""``dispatcher check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dispatcher.commands.options import FAILED, WRONG_USAGE, config_option, fail, json_option, loaded_settings

if TYPE_CHECKING:
    from dispatcher.check import Finding

SHOWN = 20


@click.command()
@click.option("--data-dir", help="The data directory; nobody may be using it.  [default: as configured]")
@config_option
@json_option
def check(data_dir: str | None, config: Path | None, as_json: bool) -> None:
    """Verify a data directory that is not in use.

    Exits with 0 if it is whole, and with 1 if not. Nothing is changed.
    """
    import msgspec

    from dispatcher.check import InUseError, examine
    from dispatcher.terminal import json_text

    findings = []
    try:
        settings = loaded_settings(config, ("dispatcher",), dispatcher={"data_dir": data_dir})
        for finding in examine(Path(settings.dispatcher.data_dir)):
            findings.append(finding)
            if not as_json:
                _print(finding)
    except InUseError as error:
        fail(str(error), WRONG_USAGE)
    damaged = [finding.file for finding in findings if finding.problems]
    if as_json:
        click.echo(json_text({"whole": not damaged, "files": msgspec.to_builtins(findings)}))
    else:
        click.echo(f"damaged: {', '.join(damaged)}" if damaged else "everything is as it was written")
    sys.exit(FAILED if damaged else 0)


def _print(finding: Finding) -> None:
    if not finding.problems:
        click.echo(f"{finding.file}: {finding.detail}")
        return
    click.echo(f"{finding.file}: DAMAGED")
    for problem in finding.problems[:SHOWN]:
        click.echo(f"  {problem}")
    if len(finding.problems) > SHOWN:
        click.echo(f"  and {len(finding.problems) - SHOWN} more")
    click.echo(f"  remedy: {finding.remedy}")

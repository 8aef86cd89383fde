"""``dispatcher backup``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dispatcher.commands.options import fail
from dispatcher.commands.service import Service, asks


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--data-dir", help="What to copy.  [default: as configured]")
@asks
def backup(service: Service, target: Path, data_dir: str | None) -> None:
    """Copy a data directory to TARGET, a new directory.

    Its dispatcher may be running.
    """
    from dispatcher.backup import BackupError
    from dispatcher.backup import backup as copy

    started = time.monotonic()
    root = Path(data_dir or service.settings.dispatcher.data_dir)
    try:
        with service.connected() as client:
            size = copy(root, target, client)
    except BackupError as error:
        fail(str(error))
    seconds = time.monotonic() - started
    service.show(
        {"target": str(target), "bytes": size, "seconds": round(seconds, 3)},
        lambda _: (
            f"{target}: {size / 2**20:.1f} MiB in {seconds:.1f} s; "
            "to restore it, start a dispatcher with it as --data-dir"
        ),
    )

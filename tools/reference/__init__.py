"""Reference pages that are written by the code which they describe: ``python -m tools.reference`` writes them anew.

They are committed, so that they can be read where there is no site; a test holds that they are what would be written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.reference import commands, python_api, settings

ROOT = Path(__file__).parents[2]
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": settings.page,
    "commands.md": commands.page,
    "api.md": python_api.page,
}

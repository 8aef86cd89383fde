"""Write the reference pages into docs/."""

from __future__ import annotations

from tools.reference import PAGES, ROOT

for name, page in PAGES.items():
    (ROOT / "docs" / name).write_text(page(), encoding="utf-8")

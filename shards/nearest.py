"""What is said of a name that is not known: which known ones are near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NAME_SHOWN = 80  # characters of such a name; the search for its neighbours takes longer than linear time


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: it proposes the nearest ones, or lists what there is."""
    names, name = sorted(known), name[:NAME_SHOWN]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"

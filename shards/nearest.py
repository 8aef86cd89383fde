"""What is said of a name that is not known: which known ones are near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

LISTED_MAX = 250  # characters of all names that are listed
NAME_SHOWN = 80  # characters of such a name; the search for its neighbours takes longer than linear time


def unknown(kind: str, name: str, known: Iterable[str], meant: Mapping[str, str] = {}) -> str:
    """The message for a name that is not known: it proposes the nearest ones, or lists what there is.

    ``meant`` has names that others use for the same, which are not near.
    """
    names, name = sorted(known), name[:NAME_SHOWN]
    near = [meant[name]] if name in meant else difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(one[:NAME_SHOWN] for one in near)}?"
    return f"unknown {kind} {name!r}; known: {_listed(names)}"


def _listed(names: list[str]) -> str:
    """As many as a message has room for, and how many more there are."""
    shown: list[str] = []
    size = 0
    for name in names:
        size += min(len(name), NAME_SHOWN) + 2
        if shown and size > LISTED_MAX:
            return f"{', '.join(shown)}, and {len(names) - len(shown)} more"
        shown.append(name[:NAME_SHOWN])
    return ", ".join(shown) or "none"

"""The example programs: each says in its first lines what it prints, and that is what it must print.

``python -m tests.support.examples`` runs all of them, and shows a line for each.
"""

from __future__ import annotations

import ast
import concurrent.futures
import difflib
import doctest
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.service import ROOT

EXAMPLES = sorted((ROOT / "examples" / "python").glob("*.py"))
AT_ONCE = 3
TIMEOUT_S = 120.0


class Ran(NamedTuple):
    name: str
    about: str
    elapsed_s: float
    problem: str  # empty: it printed what it says, and ended with exit code 0


def described(path: Path) -> tuple[str, str]:
    """The first sentence, and what it prints; "..." stands for whatever differs."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    about, _, _ = text.partition("\n\n")
    _, _, prints = text.partition("Prints:\n\n")
    return " ".join(about.split()), textwrap.dedent(prints).strip() + "\n"


def run(path: Path) -> Ran:
    about, expected = described(path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    start = time.monotonic()
    problem = ""
    try:
        ended = subprocess.run(
            [sys.executable, str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        problem = f"it does not end within {TIMEOUT_S:g} s; it printed {error.stdout!r}"
    else:
        same = doctest.OutputChecker().check_output(expected, ended.stdout, doctest.ELLIPSIS)
        if ended.returncode or not same:
            texts = expected.splitlines(), ended.stdout.splitlines()
            lines = difflib.unified_diff(*texts, "says", "prints", lineterm="")
            problem = "\n".join((f"exit code {ended.returncode}", *lines, ended.stderr))
    return Ran(path.stem, about, time.monotonic() - start, problem)


def run_all() -> Iterator[Ran]:
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(run, EXAMPLES)


def main() -> int:
    failed = 0
    for ran in run_all():
        print(f"{'FAILED' if ran.problem else 'ok':6} {ran.elapsed_s:4.1f} s  {ran.name}: {ran.about}", flush=True)
        if ran.problem:
            failed += 1
            print(textwrap.indent(ran.problem, "       "), flush=True)
    print(f"{len(EXAMPLES) - failed} of {len(EXAMPLES)} examples do what they say")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

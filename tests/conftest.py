"""What holds for all tests.

With ``CI_STRICT=1`` a test that is left out, or expected to fail, fails the run: CI has everything it needs.
Hypothesis draws the same examples at every run, and no example is too slow on a busy machine.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

# the tests start thousands of processes, each of which would compile a hundred modules
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def _left_out(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return sum(len(reporter.stats.get(kind, ())) for kind in ("skipped", "xfailed")) if reporter else 0


def _is_strict() -> bool:
    return os.environ.get("CI_STRICT") == "1"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _is_strict() and exitstatus == pytest.ExitCode.OK and _left_out(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _is_strict() and (count := _left_out(config)):
        terminalreporter.write_line(f"CI_STRICT=1: {count} left out, listed above; that fails this run", red=True)

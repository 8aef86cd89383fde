"""The arrows between modules: dispatcher -> shards -> libraries, and inside shards worker -> core -> pure -> wire.

Read from the source, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Given the time, a random generator and the bytes, these decide; they fetch nothing themselves.
PURE = (
    "attempts",
    "base64url",
    "book",
    "breaker",
    "broadcast",
    "broadcasts",
    "cancelling",
    "caps",
    "changes",
    "conditions",
    "contacts",
    "content_keys",
    "contents",
    "core",
    "counters",
    "credit",
    "dead_letters",
    "deciding",
    "dedupe",
    "deferrals",
    "digesting",
    "digests",
    "ending",
    "explaining",
    "findings",
    "frames",
    "gates",
    "health",
    "history",
    "identifiers",
    "intake",
    "judging",
    "keyed",
    "lanes",
    "ledger",
    "limiter",
    "limits",
    "meter",
    "nearest",
    "pace",
    "parcel",
    "people",
    "preferences",
    "quiet",
    "releasing",
    "rendering",
    "retry",
    "rules",
    "sandbox",
    "slowing",
    "stored",
    "subscription",
    "suspects",
    "template_parts",
    "templates",
    "units",
)
# What pure modules may use beside each other: shapes and checks, as pure as they are.
SHAPES = (
    "answers",
    "channels.base",
    "sending",
    "settings",
    "validation",
    "wire.control",
    "wire.encoding",
    "wire.errors",
    "wire.ids",
    "wire.link",
    "wire.notification",
    "wire.outbox",
    "wire.requests",
    "wire.sockets",
    "wire.workers",
)
IMPURE_LIBRARIES = {
    "asyncio",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "sqlite_utils",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "zmq",
}
OF_ONE_SHARD = {
    "attempts",
    "book",
    "broadcast",
    "broadcasts",
    "cancelling",
    "contents",
    "core",
    "dead_letters",
    "deciding",
    "dedupe",
    "ending",
    "deferrals",
    "explaining",
    "history",
    "inbox",
    "intake",
    "judging",
    "lanes",
    "maintenance",
    "marks",
    "operations",
    "pauses",
    "people",
    "releasing",
    "shard",
    "stream",
    "suspects",
    "tables.topics",
    "worker",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for folder in ("dispatcher", "shards") for path in (ROOT / folder).rglob("*.py")}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports anywhere in it, our own modules by their full names."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: name the package in an import"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return frozenset(found)


def ours(module: str) -> frozenset[str]:
    return imports(module) & MODULES.keys()


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for default in (*child.args.defaults, *child.args.kw_defaults):
                if default is not None:
                    yield default
                    yield from at_import(default)
            continue
        yield child
        yield from at_import(child)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("shards")))
def test_shards_never_import_the_dispatcher(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] == "dispatcher"}


@pytest.mark.parametrize("name", [*PURE, *SHAPES])
def test_pure_modules_reach_for_no_clock_socket_file_or_chance(name: str) -> None:
    found = {library.split(".")[0] for library in imports(f"shards.{name}")}
    assert not found & IMPURE_LIBRARIES


@pytest.mark.parametrize("name", [*PURE, *SHAPES])
def test_pure_modules_build_on_pure_modules_alone(name: str) -> None:
    allowed = {f"shards.{other}" for other in (*PURE, *SHAPES)}
    assert ours(f"shards.{name}") <= allowed


@pytest.mark.parametrize(
    "module",
    sorted(name for name in MODULES if name.startswith("dispatcher") and name != "dispatcher.pieces"),
)  # which hands the lanes to other programs
def test_the_state_of_a_shard_is_not_for_the_dispatcher(module: str) -> None:
    assert not imports(module) & {f"shards.{name}" for name in OF_ONE_SHARD}


@pytest.mark.parametrize("process", ["dispatcher.collector", "dispatcher.router.__main__", "shards.worker"])
def test_a_process_is_imported_by_nothing(process: str) -> None:
    assert process in MODULES
    assert not {name for name in MODULES if process in ours(name)}


def test_only_the_core_stands_between_the_worker_and_the_pure_modules() -> None:
    assert "shards.shard" in ours("shards.worker")
    assert "shards.core" in ours("shards.shard")


def test_no_module_imports_itself_through_others() -> None:
    graphlib.TopologicalSorter({name: ours(name) - {name} for name in MODULES}).prepare()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_read_from_the_environment_at_import(module: str) -> None:
    for node in at_import(tree(module)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in ("environ", "getenv", "environb"), f"{module} line {getattr(node, 'lineno', '?')}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert module == "shards.channels" or ast.get_docstring(tree(module))

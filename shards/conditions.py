"""Conditions of rules, in CEL (the Common Expression Language, https://github.com/google/cel-spec).

Whoever writes a rule is told at the start what is wrong with it. What can only be seen with a notification at hand, a
payload without the key or a value of another type, is no match.

What an answer may take is bounded, as producers choose the payload: at most ``ENTRIES_MAX`` values and ``TEXT_MAX``
characters are looked at; a loop (``all``, ``exists``, ``map``, ...) stands in no other loop; and the pattern of
``matches``, which is compiled each time, is written in the rule, outside of loops. A loop over the largest payload then
takes a millisecond.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import re
import types
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shards.nearest import unknown
from shards.wire.notification import Notification

EXPRESSION_MAX = 2_000  # characters
ENTRIES_MAX = 1_000  # of a payload and metadata, at every depth
TEXT_MAX = 65_536  # characters of all texts together
ERROR_SHOWN = 200
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

LOCAL = {"hour": 12, "minute": 0, "weekday": "thu"}

# What an expression may name, each with a value such as it has.
VARIABLES: dict[str, Any] = {
    "category": "system",
    "type": "info",
    "priority": "normal",
    "locale": "fr-CA",
    "payload": {},
    "title": "title",
    "metadata": {},
    "channels": ["email"],
    "user_id": "user-1",
    "now": datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC),
    "local": LOCAL,
}
DATA = ("payload", "metadata")  # of these, what they have is only known with a notification at hand
TYPES = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint")
FUNCTIONS = (
    "bytes", "contains", "double", "duration", "dyn", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek",
    "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds", "int",
    "matches", "size", "startsWith", "string", "timestamp", "type", "uint",
)  # fmt: skip

_TOKEN = re.compile(
    r"""//[^\n]*|(?P<text>[rRbB]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<mark>[^\s\w])""",
    re.DOTALL,
)
_LOOPS = frozenset({"all", "exists", "exists_one", "filter", "map"})


@functools.cache
def _cel() -> types.ModuleType:
    """The package's compiled module by itself: its ``__init__`` imports a shell, which takes 30 MB and 0.2 s."""
    package = importlib.util.find_spec("cel")
    spec = PathFinder.find_spec("cel.cel", package.submodule_search_locations) if package else None
    if spec is None or spec.loader is None:
        raise ImportError("no module cel; install common-expression-language")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(expression: str) -> None:
    """Raises ``ValueError`` where an expression is wrong, or can never be true or false."""
    if len(expression) > EXPRESSION_MAX:
        raise ValueError(f"it has {len(expression)} characters; at most {EXPRESSION_MAX}, so make it several rules")
    program = _compile(expression)
    bound = _check_loops(expression)
    named = program.references()
    for name in named["variables"]:
        if name not in VARIABLES and name not in TYPES and name not in bound:
            raise ValueError(unknown("variable", name, VARIABLES))
    for name in named["functions"]:
        if name.isidentifier() and name not in FUNCTIONS:
            raise ValueError(unknown("function", name, FUNCTIONS))
    try:
        found = program.execute(VARIABLES)
    except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception
        if not any(name in named["variables"] for name in DATA) and _is_certain(error):
            if isinstance(error, KeyError) and "local" in named["variables"]:
                raise ValueError(f"local: {unknown('key', str(error.args[0]), LOCAL)}") from None
            raise ValueError(_said(error)) from None
        if "not a valid regex" in str(error) or "feature not enabled" in str(error):
            raise ValueError(_said(error)) from None
        return
    if not isinstance(found, bool):
        raise ValueError(f"it gives {found!r:.80}, and not true or false; compare it with something")


def _is_certain(error: BaseException) -> bool:
    """Whether an expression that fails so on values of the right types will always do."""
    return isinstance(error, (KeyError, TypeError)) or "Undefined variable or function" in str(error)


def _compile(expression: str) -> Any:
    try:
        return _cel().compile(expression)
    except ValueError as error:
        found = re.search(r"<input>:(\d+):(\d+): (.*)", str(error))
        where = f"line {found[1]}, column {found[2]}: {found[3]}" if found else str(error)
        raise ValueError(f"not CEL: {where[:ERROR_SHOWN]}") from None


def _check_loops(expression: str) -> set[str]:
    """The names that loops bind, once these are as the bounds above want them."""
    tokens = [match for match in _TOKEN.finditer(expression) if match.lastgroup]
    words = [match[0] for match in tokens]
    bound: set[str] = set()
    loops: list[bool] = []  # of the brackets that are open: whether a loop's
    for at, match in enumerate(tokens):
        called = match["name"] and words[at + 1 : at + 2] == ["("]
        if called and match[0] in _LOOPS:
            if any(loops):
                raise ValueError(f"{match[0]}() stands in another loop; write a rule without the inner one")
            bound.update(words[at + 2 : at + 3])
        elif called and match[0] == "matches":
            literal = at + 3 < len(tokens) and tokens[at + 2]["text"] and words[at + 3] == ")"
            if any(loops) or not literal:
                raise ValueError('matches() stands in no loop, and takes its pattern as text: title.matches("^A")')
        elif match[0] == "(":
            loops.append(words[at - 1] in _LOOPS if at else False)
        elif match[0] == ")" and loops:
            loops.pop()
    return bound


def _said(error: BaseException) -> str:
    """A failure in the terms of the one who wrote the expression, without values, which are the producers'."""
    if isinstance(error, KeyError):
        return f"there is no key {error}"
    if undefined := re.search(r"Undefined variable or function: '(\w+)'", str(error)):
        return f"{undefined[1]}() does not take what is given to it"  # the names were looked at before
    if isinstance(error, OverflowError):
        return "a number is out of range"
    return " ".join(str(error).split()).partition(". ")[0][:ERROR_SHOWN]


class Conditions:
    """The conditions of rules, in their order; None is always true. ``tell`` comes before ``hold``.

    ``failures`` has, by rule, how often its condition could not be answered; ``untold`` is for whoever has a log: each
    such rule once, with what the problem was.
    """

    def __init__(self, expressions: Sequence[str | None]) -> None:
        self._programs = [None if expression is None else _compile(expression) for expression in expressions]
        named = {name for program in self._programs if program is not None for name in program.variables()}
        self._named = tuple(name for name in VARIABLES if name in named)
        self._context = _cel().Context() if any(self._programs) else None
        self._unanswerable = ""  # why the notification that was told of cannot be looked at
        self.failures = [0] * len(expressions)
        self.untold: list[tuple[int, str]] = []

    def tell(
        self, notification: Notification, priority: str, user_id: str, locale: str, zone: str, now_ms: int
    ) -> None:
        """What is asked about from now on. ``zone`` is the name of the user's time zone."""
        if self._context is None:
            return
        given: dict[str, Any] = {"priority": priority, "user_id": user_id, "locale": locale}
        try:
            now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
            facts = {
                name: given[name] if name in given else self._fact(name, notification, now, zone)
                for name in self._named
            }
            self._unanswerable = _too_much(facts.values())
            if not self._unanswerable:
                self._context.update(facts)
        except BaseException as error:  # noqa: BLE001 - as above
            self._unanswerable = _said(error)

    @staticmethod
    def _fact(name: str, notification: Notification, now: datetime.datetime, zone: str) -> Any:
        if name == "now":
            return now
        if name == "local":
            local = now.astimezone(_zone(zone))
            return {"hour": local.hour, "minute": local.minute, "weekday": WEEKDAYS[local.weekday()]}
        return getattr(notification, name) or type(VARIABLES[name])()

    def hold(self, at: int) -> bool:
        """Whether the condition of the rule at this place is true of what ``tell`` was given."""
        found, problem = self.answer(at)
        if problem:
            if not self.failures[at]:
                self.untold.append((at, problem))
            self.failures[at] += 1
        return found

    def answer(self, at: int) -> tuple[bool, str]:
        """The same with why it could not be answered, and nothing counted."""
        program = self._programs[at]
        if program is None:
            return True, ""
        if self._unanswerable:
            return False, self._unanswerable
        try:
            found = program.execute(self._context)
        except BaseException as error:  # noqa: BLE001 - as above
            return False, _said(error)
        if isinstance(found, bool):
            return found, ""
        return False, f"it gives a value of type {type(found).__name__}, and not true or false"


@functools.lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except ZoneInfoNotFoundError:
        raise ValueError(f"no time zone {name}") from None


def _too_much(values: Iterable[Any]) -> str:
    """Why a notification is not looked at; empty if it is."""
    pending = list(values)
    entries = characters = 0
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, (dict, list)):
            entries += len(value)
            if entries <= ENTRIES_MAX:
                pending.extend(value)
                if isinstance(value, dict):
                    pending.extend(value.values())
    if entries > ENTRIES_MAX:
        return f"it has more than {ENTRIES_MAX} values"
    return f"it has more than {TEXT_MAX} characters" if characters > TEXT_MAX else ""

"""What templates run in: Jinja2's sandbox, and a meter that ends a rendering which takes too much time or memory.

Jinja2's own sandbox keeps a template off the interpreter's insides, but not from ``'a' * 10**9`` or loops in loops. So

- everything has its price in steps: a body (of a loop, a macro, a block) as many as it has nodes, each time that it is
  entered; a loop, as many as it has items; a value that is made, read through or written, one per 16 characters;
- what can make something much larger than what it is given is measured before it is done;
- a list is as large as all that is in it, so that lists of lists of lists do not multiply when they are written.

No value is ever larger than ``VALUE_MAX`` and no rendering takes more than ``STEPS_MAX``, which are some tenths of a
second.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from string import Formatter
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined, TemplateRuntimeError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import Markup

STEPS_MAX = 1_000_000
VALUE_MAX = 2 * 2**20  # characters; a payload has at most half as many
ITEM = 8  # an item of a list is as much as so many characters
CHARACTERS_SHIFT = 4  # of a step
INTEGER_BITS_MAX = 4_096
ARGUMENT_MAX = 10_000  # of a filter, where it is a number
WRAPPED_MAX = 65_536  # characters; wrapping takes longer than linear time
SELDOM = frozenset(
    {"attr", "pprint", "random", "striptags", "urlize", "xmlattr"}
)  # unsafe, slow, or no two times alike
# fmt: off
METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset({
        "capitalize", "casefold", "center", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
        "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust",
        "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust",
        "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
        "zfill",
    }),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    float: frozenset({"is_integer"}),
}
# fmt: on


class TooMuchError(TemplateRuntimeError):
    """A rendering takes more than it may."""


class Meter:
    """What one rendering may still take."""

    __slots__ = ("left", "token")

    def __enter__(self) -> None:
        self.left = STEPS_MAX
        self.token = _meter.set(self)

    def __exit__(self, *_: object) -> None:
        _meter.reset(self.token)


_meter: ContextVar[Meter] = ContextVar("meter")


def spend(steps: int) -> None:
    meter = _meter.get()
    meter.left -= steps
    if meter.left < 0:
        raise TooMuchError(f"it takes more than {STEPS_MAX} steps; make its loops and macros smaller")


def _refuse(size: int, most: int = VALUE_MAX) -> None:
    if size > most:
        raise TooMuchError(f"a value would have more than {most} characters, or as much in a list")


def size_of(value: Any) -> int:
    """In characters, all that is in it included; counting ends where it is too large."""
    if isinstance(value, str):
        return len(value)
    size, pending = 0, [value]
    while pending and size <= VALUE_MAX:
        one = pending.pop()
        size += ITEM
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, dict):
            pending += one
            pending += one.values()
        elif isinstance(one, list | tuple):
            pending += one
        elif isinstance(one, range):
            size += ITEM * len(one)
    return size


def checked(value: Any) -> Any:
    """The value, paid for."""
    kind = type(value)
    if kind is bool or kind is int or kind is float or value is None:
        spend(1)
        return value
    size = size_of(value)
    _refuse(size)
    spend(1 + (size >> CHARACTERS_SHIFT))
    return value


def written(value: Any) -> Any:
    """What is written of a value: nothing of null. What is no data, such as a method not called, is refused."""
    kind = type(value)
    if kind is str or kind is Markup or kind is int or kind is float:
        spend(1 + (len(value) >> CHARACTERS_SHIFT) if kind is str or kind is Markup else 1)
        return value
    if value is None:
        return ""
    if isinstance(value, str | int | float | list | tuple | dict):
        return checked(value)
    if isinstance(value, StrictUndefined):
        return str(value)  # which raises what is undefined
    raise TemplateRuntimeError(f"a {kind.__name__} cannot be written; is it to be called, or looped over?")


def each(items: Any) -> Any:
    """What a loop goes over, paid for; a generator becomes a list."""
    items = items if hasattr(items, "__len__") else list(_metered(items))
    spend(len(items))
    return items


def _metered(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(1)
        yield item


def joined(pieces: Iterable[str]) -> str:
    """The text that a macro or ``{% set %}`` has gathered."""
    texts = list(pieces)
    size = sum(map(len, texts))
    _refuse(size)
    spend(1 + (size >> CHARACTERS_SHIFT))
    return "".join(texts)


class Box(Namespace):
    """A ``namespace()``. Its text does not say what is in it, which may be itself."""

    def __repr__(self) -> str:
        return "<namespace>"


# --- what grows ---------------------------------------------------------------------------------------------------


def _formatted(text: str, arguments: Sequence[Any], marker: str) -> int:
    """An upper bound of the size of ``text`` with ``arguments`` in the places that ``marker`` begins.

    Every number in it may be a width, and so may every argument where the text takes widths from them.
    """
    _refuse(len(text), WRAPPED_MAX)
    widths = sum(map(int, re.findall(r"\d{1,9}", text)))
    if re.search(r"%[#0\- +\d.]*\*", text) if marker == "%" else _has_nested(text):
        widths += sum(abs(one) for one in arguments if isinstance(one, int))
    return len(text) + widths + text.count(marker) * max(map(size_of, arguments), default=0)


def _has_nested(text: str) -> bool:
    """Whether ``{:{width}}`` is in it."""
    return any("{" in (spec or "") for _, _, spec, _ in Formatter().parse(text))


def _grown(name: str, text: Any, given: Mapping[str, Any] | Sequence[Any]) -> int:
    """How large the result of a method of texts, or of the filter of its name, is at the most."""
    arguments = list(given.values()) if isinstance(given, Mapping) else list(given)
    numbers = [abs(int(one)) for one in arguments if isinstance(one, int)]
    texts = [one for one in arguments if isinstance(one, str)]
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            return max(numbers, default=0)
        case "replace" if len(texts) >= 2:
            return size_of(text) + str(text).count(texts[0]) * len(texts[1])
        case "indent":
            return size_of(text) + (str(text).count("\n") + 1) * max([4, *numbers, *map(len, texts)])
        case "wordwrap":
            _refuse(size_of(text), WRAPPED_MAX)
            return size_of(text) * max([1, *map(len, texts)])
        case "tojson":
            return size_of(text) * max([1, *numbers])
        case "sum" if any(isinstance(one, list | tuple) for one in arguments):
            return size_of(text) * size_of(text)
        case "format":
            return _formatted(str(text), arguments, "%")
    return 0


def _join_size(separator: Any, items: Any) -> int:
    count = len(items) if hasattr(items, "__len__") else 0
    return size_of(items if isinstance(items, list | tuple | dict | str) else list(items)) + count * size_of(separator)


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, under the meter. As it takes the context, Jinja2 does not evaluate it when it compiles."""
    passed = {"context": "context", "eval_context": "eval_ctx", "environment": "environment"}.get(
        getattr(getattr(function, "jinja_pass_arg", None), "name", "")
    )
    shape = inspect.signature(function) if name in GROWING else None

    @pass_context
    @functools.wraps(function, updated=())
    def metered(context: Context, value: Any, /, *arguments: Any, **named: Any) -> Any:
        first = () if passed is None else (context if passed == "context" else getattr(context, passed),)
        if isinstance(value, Iterator):
            value = each(value)
        checked(value)
        for one in (*arguments, *named.values()):
            if isinstance(one, int) and abs(one) > ARGUMENT_MAX:
                raise TooMuchError(f"{name} is given {one}; at most {ARGUMENT_MAX}")
            checked(one)
        if shape is not None:
            given = dict(shape.bind(*first, value, *arguments, **named).arguments)
            _refuse(_filtered_size(name, value, list(given.items())[len(first) + 1 :]))
        result = function(*first, value, *arguments, **named)
        return checked(each(result) if isinstance(result, Iterator) else result)

    return metered


def _filtered_size(name: str, value: Any, given: Sequence[tuple[str, Any]]) -> int:
    arguments = dict(given)
    if name == "join":
        return _join_size(arguments.get("d", ""), value)
    if name == "format":
        return _grown(name, value, [*arguments.get("args", ()), *arguments.get("kwargs", {}).values()])
    return _grown(name, value, arguments)


GROWING = frozenset({"center", "format", "indent", "join", "replace", "sum", "tojson", "wordwrap"})


# --- the environment ----------------------------------------------------------------------------------------------


class Generator(CodeGenerator):
    """Writes into the code of a template what it has to pay."""

    def blockvisit(self, nodes_: Iterable[nodes.Node], frame: Frame) -> None:
        body = list(nodes_)
        steps = len(body) + sum(1 for node in body for _ in node.find_all(nodes.Node))
        self.writeline(f"environment.spend({steps})")
        super().blockvisit(body, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - the name is Jinja2's
        node.iter = nodes.Call(nodes.EnvironmentAttribute("each"), [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:  # noqa: N802
        self.write(f" {operators[node.op]} ")
        self._checked(self.visit, node.expr, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self._checked(super().visit_Concat, node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._checked(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._checked(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._checked(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self._checked(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _checked(self, visit: Callable[..., Any], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.checked(")
        visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates. Only within a ``Meter`` can anything be compiled or rendered."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(joined)
    spend = staticmethod(spend)
    checked = staticmethod(checked)
    each = staticmethod(each)

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, finalize=written, **options)
        self.filters = {name: _metered_filter(name, one) for name, one in FILTERS.items() if name not in SELDOM}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "joiner")} | {"namespace": Box}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``order.items`` is what the payload calls so, if it does, before it is a method."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            arguments = right.values() if isinstance(right, dict) else right if isinstance(right, tuple) else (right,)
            _refuse(_formatted(left, list(arguments), operator))
        elif operator == "*":
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
            else:
                many, count = (right, left) if isinstance(left, int) else (left, right)
                if isinstance(count, int):
                    _refuse(size_of(many) * abs(count))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        return checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *arguments: Any, **named: Any) -> Any:
        if obj is each:
            return each(*arguments)
        if isinstance(obj, BuiltinMethodType | MethodType):
            self._check_method(obj, arguments)
        elif isinstance(obj, FunctionType) and isinstance(
            method := getattr(obj, "__wrapped__", None), BuiltinMethodType | MethodType
        ):  # the sandbox's own str.format
            if method.__name__ != "format":
                raise SecurityError(f"{method.__name__} of a str is not to be had")
            _refuse(_formatted(str(method.__self__), [*arguments, *named.values()], "{"))
        return checked(super().call(context, obj, *arguments, **named))

    @staticmethod
    def _check_method(method: BuiltinMethodType | MethodType, arguments: Sequence[Any]) -> None:
        owner, name = method.__self__, method.__name__
        allowed = any(isinstance(owner, kind) and name in methods for kind, methods in METHODS.items())
        if not allowed and (isinstance(method, BuiltinMethodType) or isinstance(owner, str)):
            raise SecurityError(f"{name} of a {type(owner).__name__} is not to be had")
        if isinstance(owner, str):
            spend(1 + (len(owner) >> CHARACTERS_SHIFT))
            _refuse(_join_size(owner, *arguments[:1]) if name == "join" else _grown(name, owner, arguments))


def _check_bits(bits: int) -> None:
    if bits > INTEGER_BITS_MAX:
        raise TooMuchError(f"a number would have more than {INTEGER_BITS_MAX} bits")

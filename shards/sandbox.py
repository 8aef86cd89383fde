"""What templates run in: Jinja2's sandbox, under a meter.

Jinja2's own sandbox keeps a template off the interpreter's insides, but not from ``'a' * 10**9`` or loops in loops; so
whatever a template does here is paid for, as ``meter`` has it. Null is written as nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from markupsafe import Markup

from shards.meter import (
    CHARACTERS_SHIFT,
    TooMuchError,
    check_bits,
    checked,
    each,
    joined,
    refuse_above,
    size_formatted,
    size_grown,
    size_joined,
    size_multiplied,
    spend,
)

ARGUMENT_MAX = 10_000  # of a filter in SIZED, where it is a number
# Unsafe, slower than linear, or no two times alike.
LEFT_OUT = frozenset({"attr", "pprint", "random", "striptags", "urlize", "xmlattr"})
SIZED = frozenset({"batch", "center", "indent", "round", "slice", "tojson"})
GROWING = frozenset({"center", "format", "indent", "join", "replace", "sum", "tojson", "wordwrap"})
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


class Box(Namespace):
    """A ``namespace()``. Its text does not say what is in it, which may be itself."""

    def __repr__(self) -> str:
        return "<namespace>"


def written(value: Any) -> Any:
    """What is written of a value. What is no data, such as a method that was not called, is refused."""
    kind = type(value)
    if kind is str or kind is Markup:
        spend(1 + (len(value) >> CHARACTERS_SHIFT))
        return value
    if value is None:
        return ""
    if isinstance(value, str | int | float | list | tuple | dict):
        return checked(value)
    if isinstance(value, StrictUndefined):
        return str(value)  # which raises what is undefined
    if isinstance(value, Undefined):
        return ""  # of `{{ a if b }}`, without else
    raise TemplateRuntimeError(f"a {kind.__name__} cannot be written; is it to be called, or looped over?")


# --- filters and tests --------------------------------------------------------------------------------------------


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test, paid for. As it takes the context, Jinja2 does not evaluate it when it compiles."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
    shape = inspect.signature(function) if name in GROWING else None

    @pass_context
    @functools.wraps(function, updated=())
    def metered(context: Context, value: Any, /, *arguments: Any, **named: Any) -> Any:
        first = {None: (), "context": (context,), "eval_context": (context.eval_ctx,)}.get(
            wanted, (context.environment,)
        )
        if isinstance(value, Iterator):
            value = each(value)
        checked(value)
        for one in (*arguments, *named.values()):
            checked(one)
            if name in SIZED and isinstance(one, int) and abs(one) > ARGUMENT_MAX:
                raise TooMuchError(f"{name} is given {one}; at most {ARGUMENT_MAX}")
        if shape is not None:
            given = list(shape.bind(*first, value, *arguments, **named).arguments.items())[len(first) + 1 :]
            refuse_above(size_grown(name, value, _in_order(name, dict(given))))
        result = function(*first, value, *arguments, **named)
        return checked(each(result) if isinstance(result, Iterator) else result)

    return metered


def _in_order(name: str, given: Mapping[str, Any]) -> Sequence[Any]:
    """A filter's arguments as if none had been named."""
    if name == "format":
        return [*given.get("args", ()), *given.get("kwargs", {}).values()]
    if name == "join":
        return [given.get("d", "")]
    return list(given.values())


# --- the environment ----------------------------------------------------------------------------------------------


class Generator(CodeGenerator):
    """Writes into the code of a template what it has to pay. The names of its methods are Jinja2's."""

    def blockvisit(self, nodes_: Iterable[nodes.Node], frame: Frame) -> None:
        body = list(nodes_)
        steps = len(body) + sum(1 for node in body for _ in node.find_all(nodes.Node))
        self.writeline(f"environment.spend({steps})")
        super().blockvisit(body, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        node.iter = nodes.Call(nodes.EnvironmentAttribute("each"), [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        self.write("(")
        self._checked(self.visit, node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._checked(self.visit, operand.expr, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        self._checked(super().visit_Concat, node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        self._checked(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        self._checked(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        if node.ctx == "load":
            self._checked(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - a name of jinja2
        if isinstance(node.arg, nodes.Slice):
            self._checked(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _checked(self, visit: Callable[..., Any], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.checked(")
        visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates, in which they are compiled and rendered within a ``Meter``."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    concat = staticmethod(joined)
    spend = staticmethod(spend)
    checked = staticmethod(checked)
    each = staticmethod(each)

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, finalize=written, **options)
        self.filters = {name: _metered(name, one) for name, one in FILTERS.items() if name not in LEFT_OUT}
        tests: Mapping[str, Any] = TESTS
        self.tests = {name: _metered("", one) for name, one in tests.items()}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "joiner")} | {"namespace": Box}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``order.items`` is what the payload calls so, if it does, before it is a method."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, checked(argument) if isinstance(argument, tuple) else argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int) and isinstance(right, int)
        if numbers:
            bits = checked(left).bit_length()
            check_bits(bits * abs(right) if operator == "**" else bits + checked(right).bit_length())
        elif operator == "%" and isinstance(left, str):
            arguments = right.values() if isinstance(right, dict) else right if isinstance(right, tuple) else (right,)
            refuse_above(size_formatted(left, list(arguments), operator))
        elif operator == "*" and isinstance(left, int | str | list | tuple):
            value, count = (right, left) if isinstance(left, int) else (left, right)
            refuse_above(size_multiplied(value, count) if isinstance(count, int) else 0)
        return checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *arguments: Any, **named: Any) -> Any:
        if obj is each:
            return each(*arguments)
        given = [*arguments, *(value for name, value in named.items() if not name.startswith("_"))]
        for one in given:
            checked(one)
        if isinstance(obj, BuiltinMethodType | MethodType):
            self._check_method(obj, given)
        elif isinstance(obj, FunctionType) and isinstance(
            method := getattr(obj, "__wrapped__", None), BuiltinMethodType | MethodType
        ):  # the sandbox's own str.format
            if method.__name__ != "format":
                raise SecurityError(f"{method.__name__} of a str is not to be had")
            refuse_above(size_formatted(str(method.__self__), given, "{"))
        return checked(super().call(context, obj, *arguments, **named))

    @staticmethod
    def _check_method(method: BuiltinMethodType | MethodType, given: Sequence[Any]) -> None:
        owner, name = method.__self__, method.__name__
        allowed = any(isinstance(owner, kind) and name in methods for kind, methods in METHODS.items())
        if not allowed and (isinstance(method, BuiltinMethodType) or isinstance(owner, str)):
            raise SecurityError(f"{name} of a {type(owner).__name__} is not to be had")
        if isinstance(owner, str | list | tuple):
            checked(owner)
        if isinstance(owner, str):
            refuse_above(size_joined(owner, *given[:1]) if name == "join" else size_grown(name, owner, given))

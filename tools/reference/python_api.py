"""docs/api.md: the names that Python programs import, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

import dispatcher
from tools.reference.markdown import GENERATED, table

INTRODUCTION = f"""\
# Python reference

{GENERATED}

Every call of [Python](python.md), and what it answers. All names are imported from `dispatcher`.
`AsyncNotificationService` has the calls of `NotificationService`, to be awaited; where these return an iterator, it is
an `async for`.
"""
RESULTS = (
    "Receipt", "BatchReceipt", "Rejection", "Duplicate", "Status", "DeliveryStatus", "Decision", "DeadLetter",
    "InboxItem",
)  # fmt: skip
LINE = 100  # characters
CHANNELS = ("Delivery", "Recipient", "Sent", "SendError", "Context")


def page() -> str:
    parts = [INTRODUCTION, *_service(dispatcher.NotificationService), "## Results"]
    for name in RESULTS:
        parts += _struct(getattr(dispatcher, name))
    parts += ["## For channels of your own"]
    for name in CHANNELS:
        parts += _struct(getattr(dispatcher, name))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _service(kind: type[Any]) -> Iterator[str]:
    yield f"## {kind.__name__}"
    yield _signature(kind.__name__, kind.__init__)
    yield _prose(kind)
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        yield f"### {name}"
        if isinstance(member, property):
            returns = inspect.signature(member.fget).return_annotation if member.fget else "Any"
            yield f"```text\n{name}: {returns}\n```"
        else:
            yield _signature(name, member)
        yield _prose(member)


def _struct(kind: type[Any]) -> Iterator[str]:
    yield f"### {kind.__name__}"
    yield _prose(kind)
    fields = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else getattr(kind, "_fields", ())
    if fields:
        yield table(["field", "type"], [[f"`{name}`", f"`{_typed(kind, name)}`"] for name in fields])
    else:
        yield _signature(kind.__name__, kind.__init__)
    for name, member in vars(kind).items():
        if isinstance(member, property) and member.__doc__ and not name.startswith("_"):
            yield f"`{name}`: {_prose(member)}"


def _typed(kind: type[Any], field: str) -> str:
    found = (inspect.get_annotations(base).get(field) for base in kind.__mro__)
    annotation = next(annotation for annotation in found if annotation is not None)
    return str(getattr(annotation, "__forward_arg__", annotation))  # so a named tuple has it


def _signature(name: str, function: Any) -> str:
    """With a parameter on a line where it is long; as text, since it is nothing to run."""
    found = inspect.signature(function)
    every = [one for one in found.parameters.values() if one.name != "self"]
    parameters = []
    for one, after in zip(every, [*every[1:], None][: len(every)], strict=True):
        if one.kind is one.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter(one))
        if one.kind is one.POSITIONAL_ONLY and (after is None or after.kind is not one.kind):
            parameters.append("/")
    returns = "" if found.return_annotation in ("None", inspect.Signature.empty) else f" -> {found.return_annotation}"
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) > LINE:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in parameters) + f"){returns}"
    return f"```text\n{line}\n```"


def _parameter(one: inspect.Parameter) -> str:
    stars = "**" if one.kind is one.VAR_KEYWORD else "*" if one.kind is one.VAR_POSITIONAL else ""
    default = "" if one.default is one.empty else f" = {one.default!r}"
    return f"{stars}{one.name}: {one.annotation}{default}"


def _prose(of: Any) -> str:
    """A docstring: code in double backquotes, examples as blocks, pages as links."""
    text = inspect.getdoc(of) or ""
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    text = re.sub(r"(?m)^(?: {4}.*\n?)+", lambda found: f"```text\n{textwrap.dedent(found[0]).rstrip()}\n```\n", text)
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)

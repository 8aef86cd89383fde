"""Draws results as bars: of end_to_end the product beside the floor, of others the dispatcher beside task queues.

python -m bench.others --json > others.json && python -m bench.chart others.json [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

BAR, GAP, LABEL, WIDTH, TOP, AFTER = 14, 12, 280, 480, 44, 190
NAMESPACE = "http://www.w3.org/2000/svg"
PRODUCT, FLOOR = "#2563eb", "#94a3b8"
PAPER, EDGE, INK = "#ffffff", "#c5cad6", "#111827"


class Bar(NamedTuple):
    value: float
    is_ours: bool
    shown: str


class Group(NamedTuple):
    """Bars below each other, which one label is for; a group without bars is a heading."""

    label: str
    bars: Sequence[Bar]


def draw(found: dict[str, Any]) -> str:
    """The SVG of a result of ``end_to_end`` or ``others``."""
    return _others(found) if found["bench"] == "others" else _end_to_end(found)


def _end_to_end(found: dict[str, Any]) -> str:
    groups = [
        Group(
            figure["name"],
            (
                Bar(figure["value"], True, f"{figure['value']:,.0f} ({figure['ratio']:.2f})"),
                Bar(figure["floor"], False, f"{figure['floor']:,.0f}"),
            ),
        )
        for figure in found["figures"]
        if figure["floor"]
    ]
    title = "Events per second, submit to the last outcome"
    return _chart(title, "bare prototype, same minutes", groups)


def _others(found: dict[str, Any]) -> str:
    groups = []
    for told, kept in (
        ("kept through a kill", ("Redis, everysec", "process")),
        ("kept through a power cut", ("Redis, always", "power")),
    ):
        rows = sorted((row for row in found["rows"] if row["kept"] in kept), key=lambda row: -row["tasks_per_s"])
        groups.append(Group(told, ()))
        groups += [Group(row["name"], [Bar(row["tasks_per_s"], _is_ours(row), _rate(row))]) for row in rows]
    title = "Notifications per second, from enqueue to done: one producer, two workers, one machine"
    return _chart(title, "task queues on Redis, same run", groups)


def _is_ours(row: dict[str, Any]) -> bool:
    return "Redis" not in row["kept"]


def _rate(row: dict[str, Any]) -> str:
    return f"{row['tasks_per_s']:,.0f}/s, p99 at 50/s: {row['latency_ms']['p99']:.0f} ms"


def _chart(title: str, floor: str, groups: Sequence[Group]) -> str:
    most = max((bar.value for group in groups for bar in group.bars), default=1.0)
    width = LABEL + WIDTH + AFTER
    parts = [
        _text(14, 20, title, weight="bold"),
        f'<rect x="{LABEL}" y="30" width="10" height="10" fill="{PRODUCT}"/>' + _text(LABEL + 14, 39, "dispatcher"),
        f'<rect x="{LABEL + 100}" y="30" width="10" height="10" fill="{FLOOR}"/>' + _text(LABEL + 114, 39, floor),
    ]
    top = TOP + GAP // 2
    for group in groups:
        middle = top + BAR * max(1, len(group.bars)) / 2 + 3
        parts.append(_text(LABEL - 8, middle, group.label, "end", "normal" if group.bars else "bold", 11))
        for bar in group.bars:
            length = WIDTH * bar.value / most
            colour = PRODUCT if bar.is_ours else FLOOR
            parts.append(f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(_text(LABEL + length + 5, top + BAR - 4, bar.shown, size=11))
            top += BAR
        top += GAP if group.bars else BAR + GAP // 2
    size = f'width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
    card = f'<rect x=".5" y=".5" width="{width - 1}" height="{top - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>'
    opening = f'<svg xmlns="{NAMESPACE}" {size} font-family="system-ui, sans-serif">'
    return "\n".join([opening, card, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", size: int = 13) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{INK}">{escape(text)}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.chart", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="what end_to_end or others printed with --json")
    parser.add_argument("--out", type=Path, help="default: bench/NAME.svg")
    chosen = parser.parse_args()
    found = json.loads(chosen.source.read_text())
    out = chosen.out or Path(__file__).with_name(f"{found['bench']}.svg")
    out.write_text(draw(found))
    print(f"{out}")


if __name__ == "__main__":
    main()

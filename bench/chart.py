"""Draws the end-to-end benchmark: the product beside the floor, as bars.

python -m bench.end_to_end --json > end_to_end.json && python -m bench.chart end_to_end.json [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

OUT = Path(__file__).with_name("end_to_end.svg")
BAR, GAP, LABEL, WIDTH, TOP = 14, 12, 280, 480, 44
NAMESPACE = "http://www.w3.org/2000/svg"
PRODUCT, FLOOR = "#2563eb", "#cbd5e1"


def draw(found: dict[str, Any]) -> str:
    """The SVG of an ``end_to_end`` result."""
    figures = [figure for figure in found["figures"] if figure["floor"]]
    most = max((max(figure["value"], figure["floor"]) for figure in figures), default=1.0)
    step = 2 * BAR + GAP
    height = TOP + step * len(figures) + GAP
    parts = [
        f'<svg xmlns="{NAMESPACE}" width="{LABEL + WIDTH + 120}" height="{height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(10, 18, "Events per second, submit to the last outcome", weight="bold"),
        f'<rect x="{LABEL}" y="26" width="10" height="10" fill="{PRODUCT}"/>' + _text(LABEL + 14, 35, "dispatcher"),
        f'<rect x="{LABEL + 100}" y="26" width="10" height="10" fill="{FLOOR}"/>'
        + _text(LABEL + 114, 35, "bare prototype, same minutes"),
    ]
    for place, figure in enumerate(figures):
        top = TOP + place * step
        parts.append(_text(LABEL - 8, top + BAR + 4, figure["name"], anchor="end", size=10))
        for line, (value, colour) in enumerate(((figure["value"], PRODUCT), (figure["floor"], FLOOR))):
            y, width = top + line * BAR, WIDTH * value / most
            shown = f"{value:,.0f}" + (f" ({figure['ratio']:.2f})" if line == 0 else "")
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(_text(LABEL + width + 4, y + BAR - 4, shown, size=10))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="#111827">{escape(text)}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.chart", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="what end_to_end --json printed")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    chosen.out.write_text(draw(json.loads(chosen.source.read_text())))
    print(f"{chosen.out}")


if __name__ == "__main__":
    main()

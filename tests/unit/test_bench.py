"""The benchmarks still work: each is imported, the fast ones run with tiny sizes, and what they print has its shape."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

import bench
from bench import chart, dedupe, journal, limiter, queue, templates, wire
from bench.report import Figure, medians, result, show
from tests.support.service import ROOT

FAST: dict[str, Callable[[], dict[str, Any]]] = {
    "queue": lambda: queue.run(rounds=1, items=2_000, depth_max=1_000),
    "wire": lambda: wire.run(rounds=1, items=1_000),
    "limiter": lambda: limiter.run(rounds=1, items=2_000, users=100, keys=1_000),
    "dedupe": lambda: dedupe.run(rounds=1, entries=2_000),
    "journal": lambda: journal.run(rounds=1, items=1_000),
    "templates": lambda: templates.run(rounds=1, items=20),
}
MODULES = sorted(f"bench.{module.name}" for module in pkgutil.iter_modules(bench.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported_and_says_what_it_answers(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", FAST)
def test_a_fast_benchmark_prints_one_json_object_with_a_floor_for_each_figure(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(FAST[name](), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == name
    assert found["rounds"] == 1
    assert found["figures"]
    for figure in found["figures"]:
        assert figure["value"] > 0
        assert figure["floor"] > 0
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["floor"], abs=0.001)
        assert figure["unit"]


def test_without_json_a_line_per_figure_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        result("one", 1, [Figure("a figure", 3.0, 2.0, "ns"), Figure("without a floor", 1.0, None, "s")]), as_json=False
    )
    first, second = capsys.readouterr().out.splitlines()
    assert "ratio 1.5" in first
    assert "ratio" not in second


def test_measures_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    values = {"a": iter([3.0, 1.0, 2.0]), "b": iter([1.0, 9.0, 5.0])}

    def measure(name: str) -> float:
        order.append(name)
        return next(values[name])

    assert medians(3, lambda: measure("a"), lambda: measure("b")) == [2.0, 5.0]
    assert order == ["a", "b"] * 3


def test_the_chart_has_two_bars_per_figure() -> None:
    drawn = chart.draw(result("end_to_end", 1, [Figure("2 shards, <power>", 200.0, 400.0, "events/s")]))
    bars = ElementTree.fromstring(drawn).findall("{http://www.w3.org/2000/svg}rect")
    widths = sorted(float(bar.attrib["width"]) for bar in bars if bar.attrib.get("height") == str(chart.BAR - 2))
    assert widths == [chart.WIDTH / 2, chart.WIDTH]


def test_the_chart_of_others_has_a_bar_for_each_and_what_is_kept_as_headings() -> None:
    def row(name: str, kept: str, per_s: float) -> dict[str, Any]:
        return {"name": name, "kept": kept, "tasks_per_s": per_s, "latency_ms": {"p50": 1.0, "p99": 2.0}}

    rows = [row("Huey", "Redis, always", 100.0), row("ours", "power", 200.0), row("ours", "process", 400.0)]
    drawn = chart.draw({"bench": "others", "rows": rows})
    found = ElementTree.fromstring(drawn)
    bars = [bar for bar in found.iter(f"{{{chart.NAMESPACE}}}rect") if bar.get("height") == str(chart.BAR - 2)]
    assert [(float(bar.attrib["width"]), bar.get("fill")) for bar in bars] == [
        (chart.WIDTH, chart.PRODUCT),
        (chart.WIDTH / 2, chart.PRODUCT),
        (chart.WIDTH / 4, chart.FLOOR),
    ]
    texts = [text.text for text in found.iter(f"{{{chart.NAMESPACE}}}text")]
    assert texts.index("kept through a kill") < texts.index("kept through a power cut") < texts.index("Huey")


@pytest.mark.parametrize("name", ["end_to_end", "others"])
def test_a_committed_chart_is_of_the_committed_result(name: str) -> None:
    folder = ROOT / "bench"
    assert (folder / f"{name}.svg").read_text() == chart.draw(json.loads((folder / f"{name}.json").read_text()))

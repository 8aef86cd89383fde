"""Templates that want all memory or time: each ends with an error, in a process that may not have much of either."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 512 * 2**20  # bytes of address space; Python with Jinja2 takes a tenth
CPU_S = 5.0  # for any of them: processor time, so that a busy machine makes no difference

CHILD = """
import json, sys, time
from shards.templates import TemplateEngine, TemplateError

variables = {"x": "<" * 1_000_000, "many": [{"a": "b"}] * 20_000}
refusals = {}
for name, bomb in json.load(sys.stdin).items():
    engine, started = TemplateEngine({"t": {"html": bomb}}), time.process_time()
    try:
        engine.problems()
        engine.render("t", "email", None, variables)
        refusals[name] = ("", 0)
    except TemplateError as error:
        refusals[name] = (error.reason, time.process_time() - started)
json.dump(refusals, sys.stdout)
"""


def grown(first: str, step: str, after: str = "") -> str:
    """A value that becomes larger in each round."""
    return (
        f"{{% set ns = namespace(s={first}) %}}{{% for i in range(99) %}}{{% set ns.s = {step} %}}{{% endfor %}}{after}"
    )


BOMBS = {
    "width": "{{ 'a'.center(10**8) }}",
    "width of a filter": "{{ 'a'|center(100000000) }}",
    "many": "{{ 'a' * 10**9 }}",
    "many in a list": "{{ ([1] * 10**9)|length }}",
    "many of many": "{% set a = [x] * 9999 %}{% set b = [a] * 9999 %}{{ b|string|length }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "product": grown("3", "ns.s * ns.s"),
    "digits": "{{ '%1000000000d' % 1 }}",
    "digits of a key": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "digits after the point": "{{ '%.1000000000f' % 1 }}",
    "digits from outside": "{{ '%*d' % (10**9, 1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format from outside": "{{ '{:{w}}'.format(1, w=10**9) }}",
    "format of much": "{{ ('{0}' * 9000).format(x) }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that select": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops over the payload": "{% for a in many %}{% for b in many %}{{ a == b }}{% endfor %}{% endfor %}",
    "a long body": "{% for a in range(99999) %}" + "{{ a }}" * 2_000 + "{% endfor %}",
    "much text": "{% for a in range(99999) %}" + "a" * 200_000 + "{% endfor %}",
    "much text, gathered": "{% set y %}{% for a in range(99999) %}" + "a" * 200_000 + "{% endfor %}{% endset %}",
    "much written, gathered": "{% set y %}{% for a in range(99999) %}{{ x }}{% endfor %}{% endset %}",
    "searched": "{% for a in range(99999) %}{% if 'yy' in x %}{% endif %}{% endfor %}",
    "searched by a test": "{% for a in range(99999) %}{{ 'yy' is in x }}{% endfor %}",
    "searched by a filter": "{{ range(99999)|map('string')|select('in', x)|list }}",
    "searched by a method": "{% for a in range(99999) %}{{ x.find('yy') }}{% endfor %}",
    "a large number": "{{ 0x" + "f" * 200_000 + " // 3 }}",
    "a large number of digits": "{{ ('1' * 1000000)|int(base=2) }}",
    "arguments of arguments": "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m(1) }}",
    "arguments, as text": "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% else %}{{ varargs ~ 1 }}"
    "{% endif %}{% endmacro %}{{ m(60) }}",
    "looked up": grown("(1,)", "(ns.s, ns.s) if i < 16 else ns.s")
    + "{% for a in range(99999) %}{{ {}[ns.s]|default('') }}{% endfor %}",
    "recursive, over nothing": "{% for a in [1] recursive %}{% for b in range(99999) %}"
    "{% if loop.first %}{% endif %}{% endfor %}{{ loop([1]) }}{% endfor %}",
    "cut": "{% for a in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "compared": "{% set y = x ~ 'y' %}{% set z = x ~ 'z' %}{% for a in range(99999) %}{% set r = y == z %}{% endfor %}",
    "replaced": "{{ x.replace('<', x) }}",
    "replaced by a filter": "{{ x|replace('<', x) }}",
    "replaced nothing": "{{ x.replace('', x) }}",
    "joined": "{{ many|join(x) }}",
    "joined by a method": "{{ x.join(x) }}",
    "indented": "{{ ('a\\n' * 100000)|indent(9999) }}",
    "wrapped": "{{ x|wordwrap(1) }}",
    "zeros": "{{ 'a'.zfill(10**9) }}",
    "tabs": "{{ '\\t'.expandtabs(10**9) }}",
    "translated": "{{ x.translate({60: x}) }}",
    "bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "rounded": "{{ 1|round(-1000000000) }}",
    "in batches": "{{ [1]|batch(1000000000, 1)|list }}",
    "in slices": "{{ [1]|slice(1000000000, 1)|list }}",
    "as JSON": "{{ many|tojson(indent=9999) }}",
    "a sum of lists": "{{ many|map('list')|sum(start=[])|length }}",
    "doubled": grown("'x'", "ns.s ~ ns.s"),
    "added": grown("'x'", "ns.s + ns.s"),
    "laughs": grown("[1]", "[ns.s, ns.s]", "{{ ns.s }}"),
    "laughs in tuples": grown("1", "(ns.s, ns.s)"),
    "laughs in maps": grown("1", "{1: ns.s, 2: ns.s}"),
    "laughs by name": grown("1", "dict(a=ns.s, b=ns.s)"),
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }}",
    "a macro for ever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a long macro": "{% macro m() %}"
    + "{{ 1 }}" * 9_000
    + "{% endmacro %}{% for i in range(99999) %}{{ m() }}{% endfor %}",
    "a block in itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "a loop in itself": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "words": "{{ lipsum(n=100000000) }}",
    "nested": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a long sum": "{{ " + "1+" * 20_000 + "1 }}",
    "nested blocks": "{% if x %}" * 10_000 + "{% endif %}" * 10_000,
    "mapped": "{{ range(99999)|map('string')|map('center', 9999)|join }}",
    "no end": "{% for a in range(99999)|batch(1)|map('list') %}{{ range(99999)|list }}{% endfor %}",
}


@pytest.fixture(scope="module")
def refusals() -> dict[str, tuple[str, float]]:
    """Why each was refused, and after how much time."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, tuple[str, float]] = json.loads(child.stdout)
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_bomb_is_refused(name: str, refusals: dict[str, tuple[str, float]]) -> None:
    reason, cpu_s = refusals[name]
    assert reason
    assert "MemoryError" not in reason
    assert cpu_s < CPU_S

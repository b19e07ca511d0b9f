"""How the code is put together: no circles of imports, one place that knows the whole, handlers that take one call,
functions that fit the eye, one referee, and one table of the policy's keys.

What does not keep a rule yet stands in its list of `KNOWN`, which only ever shrinks: what is mended is taken out of it.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import pytest

from fence_core.policy.keys import KEYS, SECTIONS
from tests.architecture.test_layers import ROOT, dotted, imports, modules

ASSEMBLING = "fence_core.broker.assemble"
"""The one file that puts the broker's parts together, and so knows all of them."""
WHOLE = {"Broker"}
"""What the class that holds all parts is called, whatever else that file defines."""
ABOVE = ("fence_core.launcher", "fence_core.command")
"""Who starts a broker, and may name it."""
HANDLERS = ("fence_core.broker.calls",)
PARAMETERS_MAX = 5
LINES_MAX = 60
JUDGE = "fence_core.policy"
TABLE_OF_KEYS = "fence_core.policy.keys"
GENERIC = ("fence_core.policy.kinds", "fence_core.policy.sources")
FIELDS_OF_KEYS = "fence_core.policy.model"
KEY_NAMES = {spelling: key.path for key in KEYS for spelling in (key.name, key.camel, key.path)}
DECISIONS = {"Decision", "Rule"}
"""What is made by the judge, and by nobody else."""
REFUSING = {"refuse", "note", "report"}
"""What is called to refuse something, and to write down that it was."""
FAULT = re.compile(r"fault|_?failed")
"""Functions about faults of the fence itself, which no rule is the cause of."""

KNOWN: Mapping[str, set[str]] = {
    "key": set(),
    "circle": set(),
    "whole": set(),
    "parameters": set(),
    "lines": set(),
    "referee": set(),
}

Sources = Mapping[str, ast.Module]
"""Modules by their dotted names."""
Found = Mapping[str, str]
"""Who offends, by a dotted name, and how."""


def functions(node: ast.AST, above: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All of them, those in others too, by their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{above}.{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from functions(child, name)
        else:
            yield from functions(child, above)


def below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# ---------------------------------------------------------------- circles of imports


def imported(sources: Sources) -> dict[str, set[str]]:
    """Which modules each one imports: at the top, inside functions, and for the types only."""
    found: dict[str, set[str]] = {}
    for name, tree in sources.items():
        path = ROOT / (name.replace(".", "/") + ".py")
        if not path.exists() and path.with_suffix("").is_dir():
            path = path.with_suffix("") / "__init__.py"
        targets = set()
        for full, _, _ in imports(tree, path):
            target = full if full in sources else full.rpartition(".")[0]
            if target in sources and target != name:
                targets.add(target)
        found[name] = targets
    return found


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Tarjan's: the sets of modules of which each leads to all others."""
    order = itertools.count()
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = next(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            place = stack.index(name)
            if len(stack) - place > 1:
                found.append(set(stack[place:]))
            del stack[place:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def in_circles(sources: Sources) -> Found:
    graph = imported(sources)
    return {
        name: f"imports {', '.join(sorted(graph[name] & circle))}, which lead back to it"
        for circle in circles(graph)
        for name in circle
    }


# ---------------------------------------------------------------- who knows the whole


def naming_the_whole(sources: Sources) -> Found:
    """Modules below the assembling file that import it, or name the class that holds all parts: as a type, too."""
    wholes = set(WHOLE)
    if ASSEMBLING in sources:
        wholes |= {node.name for node in sources[ASSEMBLING].body if isinstance(node, ast.ClassDef)}
    found = {}
    for name, tree in sources.items():
        if name == ASSEMBLING or below(name, ABOVE) or not below(name, ("fence_core",)):
            continue
        for node in ast.walk(tree):
            names: set[str] = set()
            if isinstance(node, ast.Name):
                names = {node.id}
            elif isinstance(node, ast.Attribute):
                owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
                names = {node.attr} if node.attr in wholes or owner == "broker" else set()  # not `bpf.assemble`
            elif isinstance(node, ast.ClassDef):
                names = {node.name}
            elif isinstance(node, ast.alias):
                names = {node.name.rpartition(".")[2], *([ASSEMBLING] if node.name == ASSEMBLING else [])}
            elif isinstance(node, ast.ImportFrom) and node.module == ASSEMBLING:
                names = {ASSEMBLING}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in wholes:
                names = {node.value}
            for one in names & (wholes | {ASSEMBLING, ASSEMBLING.rpartition(".")[2]}):
                found[name] = f"line {getattr(node, 'lineno', 0)} names {one}"
    return found


# ---------------------------------------------------------------- functions


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many there are, `self` and `cls` apart."""
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    own = names[:1] in (["self"], ["cls"])
    return len(names) - own + len(given.kwonlyargs) + (given.vararg is not None) + (given.kwarg is not None)


def with_many_parameters(sources: Sources) -> Found:
    return {
        name: f"{parameters(node)} parameters"
        for module, tree in sources.items()
        if below(module, HANDLERS)
        for name, node in functions(tree, module)
        if parameters(node) > PARAMETERS_MAX
    }


def too_long(sources: Sources) -> Found:
    return {
        name: f"{lines} lines"
        for module, tree in sources.items()
        for name, node in functions(tree, module)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > LINES_MAX
    }


# ---------------------------------------------------------------- one referee


def called(node: ast.Call) -> str:
    """The last part of what is called, without the underscore of a private name."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name.lstrip("_") if name.lstrip("_") in REFUSING else name


def is_text(node: ast.AST) -> bool:
    """Words that stand there: a string, an f-string, two of them, one or the other."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value != ""
    if isinstance(node, ast.IfExp):
        return is_text(node.body) or is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.BinOp) and (is_text(node.left) or is_text(node.right))
    )


def offence(node: ast.AST) -> str:
    """What a referee of one's own says: it makes a decision, gives a reason or words a rule."""
    if isinstance(node, ast.Call):
        name = called(node)
        if name in DECISIONS:
            return f"makes a {name}"
        if name in REFUSING and any(given.arg in ("reason", "rule", "why") for given in node.keywords):
            return f"gives {name} a reason"
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        pairs = [(target, node.value) for target in targets]
        for target, value in list(pairs):
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs += zip(target.elts, value.elts, strict=False)
        if any(isinstance(target, ast.Name) and target.id == "rule" and is_text(value) for target, value in pairs):
            return "words a rule"
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "rule" and is_text(value):
                return "words a rule"
    return ""


def other_referees(sources: Sources) -> Found:
    """Who outside of the judge decides, or says in words of its own why something is refused."""
    found: dict[str, str] = {}

    def search(node: ast.AST, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            own = owner
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own = f"{owner}.{child.name}"
                if FAULT.search(child.name):
                    continue
            if text := offence(child):
                found[own] = f"line {getattr(child, 'lineno', 0)} {text}"
            search(child, own)

    for module, tree in sources.items():
        if below(module, ("fence_core",)) and not below(module, (JUDGE,)):
            search(tree, module)
    return found


# ---------------------------------------------------------------- one table of keys


def names_in(node: ast.AST) -> list[str]:
    """What is named side by side: items of a list, keys of a table, arguments of a call, fields of a class."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items: list[ast.AST | None] = [*node.elts]
        items += [each.elts[0] for each in node.elts if isinstance(each, ast.Tuple | ast.List) and each.elts]
    elif isinstance(node, ast.Dict):
        items = [*node.keys, *node.values]
    elif isinstance(node, ast.Call):
        return [each.arg or "" for each in node.keywords]
    elif isinstance(node, ast.ClassDef):
        targets = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    else:
        # One after the other: a chain of comparisons, or of assignments by name.
        tests = [each.test for each in ast.walk(node) if isinstance(each, ast.If)] if is_function(node) else []
        items = [side for test in tests if isinstance(test, ast.Compare) for side in test.comparators]
    return [each.value for each in items if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def other_tables_of_keys(sources: Sources) -> Found:
    """Who lists keys of the policy, three or more of them, beside the rows and the fields that these are about.

    What reads, merges and sends the values goes by the rows, and names no key at all. The judge and the remedies name
    the one that decided, or would: it has to be one.
    """
    found = {}
    for name, tree in sources.items():
        for node in ast.walk(tree) if name != TABLE_OF_KEYS else ():
            if name == FIELDS_OF_KEYS and isinstance(node, ast.ClassDef):
                continue
            listed = sorted({KEY_NAMES[each] for each in names_in(node) if each in KEY_NAMES})
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.fullmatch(rf"({'|'.join(SECTIONS)})\.\w+", text) and text not in KEY_NAMES:
                found[name] = f"line {getattr(node, 'lineno', 0)} names {text}, which is not a key"
            elif text in KEY_NAMES and below(name, GENERIC):
                found[name] = f"line {getattr(node, 'lineno', 0)} names {text}"
            elif len(listed) > 2:
                found[name] = f"line {getattr(node, 'lineno', 0)} lists {', '.join(listed)}"
    return found


# ---------------------------------------------------------------- the rules, over the code that is there


RULES: Mapping[str, Callable[[Sources], Found]] = {
    "circle": in_circles,
    "whole": naming_the_whole,
    "parameters": with_many_parameters,
    "lines": too_long,
    "referee": other_referees,
    "key": other_tables_of_keys,
}


@cache
def sources() -> Sources:
    return {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in modules()}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule: str) -> None:
    found = RULES[rule](sources())
    new = [f"{name}: {text}" for name, text in sorted(found.items()) if name not in KNOWN[rule]]
    assert not new, "\n".join(["", *new])
    mended = KNOWN[rule] - found.keys()
    assert not mended, f"take out of KNOWN[{rule!r}], since they keep the rule now: {sorted(mended)}"


# ---------------------------------------------------------------- the rules can fail


PLANTED: Mapping[str, list[tuple[dict[str, str], set[str]]]] = {
    "key": [
        (
            {
                TABLE_OF_KEYS: "KEYS = ('allow_write', 'deny_write', 'deny_read')",
                FIELDS_OF_KEYS: "class Rules:\n    allow_write: int\n    deny_write: int\n    deny_read: int",
                "fence_core.policy.listing": "PATHS = frozenset({'allow_write', 'denyWrite', 'filesystem.deny_read'})",
                "fence_core.policy.casting": "Rules(allow_write=1, deny_write=2, deny_read=3)",
                "fence_core.policy.typing": "T: dict = {'hosts': dict, 'proxy_env': bool, 'expose_ports': list}",
                "fence_core.policy.pairs": "T = [('network', 1), ('hosts', 2), ('proxy_env', 3), ('expose_ports', 4)]",
                "fence_core.launcher.fields": "class C:\n    mode: str\n    leftovers: str\n    scope: str",
                "pytest_fence.chain": "def f(n):\n    if n == 'hosts': pass\n    elif n == 'mode': pass\n"
                "    elif n == 'scope': pass",
                "fence_core.policy.floor": "return Rule('network.allow_domains')",
                "fence_core.policy.sources.load": "explicit = raw['extends']",
                "fence_core.policy.sources.wire": "'''allow_write''' + f'{key} extends'\nx = key.name",
                "fence_core.policy.innocent": "says = ['allow_write', 'deny_write']\nrule = 'filesystem.deny_read'",
            },
            {
                *(f"fence_core.policy.{name}" for name in ("listing", "casting", "typing", "pairs")),
                "fence_core.policy.floor",
                "fence_core.policy.sources.load",
                "fence_core.policy.sources.wire",
                "fence_core.launcher.fields",
                "pytest_fence.chain",
            },
        )
    ],
    "circle": [
        (
            {
                "fence_core.broker.a": "from fence_core.broker import b\nfrom fence_core.kernel import libc",
                "fence_core.broker.b": "def f():\n    from fence_core.broker.c import C",
                "fence_core.broker.c": "if TYPE_CHECKING:\n    from .a import A",
                "fence_core.broker.d": "import fence_core.broker.a",
                "fence_core.kernel.libc": "import os",
            },
            {"fence_core.broker.a", "fence_core.broker.b", "fence_core.broker.c"},
        ),
        ({"pytest_fence.a": "from pytest_fence.b import B", "pytest_fence.b": "import os"}, set()),
    ],
    "whole": [
        (
            {
                ASSEMBLING: "class Broker: pass\nclass Everything: pass",
                "fence_core.broker.typed": "def f(broker: Broker): pass",
                "fence_core.broker.quoted": "def f(whole: 'Everything'): pass",
                "fence_core.broker.importing": "from fence_core.broker.assemble import supervise",
                "fence_core.broker.sideways": "from fence_core.broker import assemble",
                "fence_core.proxy.plain": f"import {ASSEMBLING}",
                "fence_core.broker.loop": "class Broker: pass",
                "fence_core.broker.innocent": "from fence_core.errors import BrokerError\nbroker = 'the broker'",
                "fence_core.launcher.fork": "from fence_core.broker.assemble import Broker",
            },
            {
                *(f"fence_core.broker.{name}" for name in ("typed", "quoted", "importing", "sideways", "loop")),
                "fence_core.proxy.plain",
            },
        )
    ],
    "parameters": [
        (
            {
                "fence_core.broker.calls.x": "def f(a, b, c, *, d, e): pass\ndef g(a, b, c, *d, e, f): pass",
                "fence_core.broker.calls.y": "class C:\n    def f(self, a, b, c, d, e): pass\n"
                "    def g(self, a, b, c, d, e, f): pass\ndef h():\n    async def i(a, b, c, d, e, f=1): pass",
                "fence_core.broker.delivery": "def f(a, b, c, d, e, f): pass",
            },
            {
                "fence_core.broker.calls.x.g",
                "fence_core.broker.calls.y.C.g",
                "fence_core.broker.calls.y.h.i",
            },
        )
    ],
    "lines": [
        (
            {
                "fence_core.x": "class C:\n    def long(self):\n" + "        pass\n" * 60,
                "pytest_fence.y": "def just():\n" + "    pass\n" * 59,
            },
            {"fence_core.x.C.long"},
        )
    ],
    "referee": [
        (
            {
                "fence_core.broker.calls.a": "def f(call):\n    return call.refuse(request, 1, reason=WHY)",
                "fence_core.broker.calls.b": "def f(call):\n    return Decision(False, 'no')",
                "fence_core.broker.c": "def f():\n    rule = f'{x} may not'\n    note(rule)",
                "fence_core.broker.d": "class C:\n    def f(self): return {'rule': 'it is not known'}",
                "fence_core.broker.e": "def f():\n    a, rule = 1, 'no' if b else decision.rule",
                "fence_core.proxy.f": "def f():\n    return tree.Rule('lock', '')",
                "fence_core.policy.decide": "def f(): return Decision(False, 'no')",
                "fence_core.broker.fine": "def f(call):\n    rule = judge.decide(x).rule\n    call.refuse(x, 1)\n"
                "def _fault():\n    rule = 'it is ours'\ndef g():\n    rule = ''",
            },
            {
                "fence_core.broker.calls.a.f",
                "fence_core.broker.calls.b.f",
                "fence_core.broker.c.f",
                "fence_core.broker.d.C.f",
                "fence_core.broker.e.f",
                "fence_core.proxy.f.f",
            },
        )
    ],
}


@pytest.mark.parametrize(
    ("rule", "planted", "offenders"), [(rule, *case) for rule, cases in PLANTED.items() for case in cases]
)
def test_offenders_are_found(rule: str, planted: dict[str, str], offenders: set[str]) -> None:
    assert RULES[rule]({name: ast.parse(text) for name, text in planted.items()}).keys() == offenders

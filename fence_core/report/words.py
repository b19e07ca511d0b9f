"""The sentences about a violation, made from its data. Nothing ever reads them again."""

from __future__ import annotations

from collections.abc import Iterable

from fence_core.events.model import Target, Violation
from fence_core.policy.model import Remedy, Rule
from fence_core.report.rule import because, camel
from fence_core.text import escape


def tried(violation: Violation) -> str:
    """What was tried: ``connect 93.184.216.34:443/tcp``."""
    return attempt(violation.operation, violation.target)


def attempt(operation: str, target: Target) -> str:
    if operation == "relay" or (target.kind == "other" and target.detail):
        return escape(target.detail)
    if target.kind == "command":
        return escape(f"{operation} {target.detail}")
    if operation == "socket":
        return f"open socket {escape(target.protocol)}"
    return escape(f"{operation} {_place(target)}" + (f", {target.detail}" if target.detail else ""))


def _place(target: Target) -> str:
    if target.kind in ("path", "unix"):
        return f"unix:{target.path}" if target.kind == "unix" else target.path
    if not target.protocol:
        return target.host
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}/{target.protocol}"


def rule(rule: Rule, verdict: str) -> str:
    """Why it was refused: ``no rule in network.allowed_domains allows it (preset pytest)``."""
    # What is protected is built in; for what nothing opens the reason is all there is.
    return escape(because(rule, "impossible" if rule.source is None and verdict in ("protected", "error") else verdict))


def line(violation: Violation) -> str:
    """All in one line, for where there is no report."""
    where = escape(violation.nodeid) or f"outside any test ({violation.phase})"
    times = f" ({violation.count} times)" if violation.count > 1 else ""
    via = "" if violation.program.is_pytest else f" by {' -> '.join(map(escape, violation.program.chain))}"
    return f"{where}: {tried(violation)}{times}{via}; {rule(violation.rule, violation.verdict)}"


# --- remedies ---


def marker(remedy: Remedy) -> str:
    """For one test: ``@pytest.mark.fence(allowed_domains=["api.stripe.com"])``."""
    value = str(remedy.value) if isinstance(remedy.value, bool) else _list(remedy.value)
    return f"@pytest.mark.fence({_name(remedy)}={value})"


def config(remedy: Remedy) -> str:
    """The same for the whole project, in the syntax of its config."""
    value = str(remedy.value).lower() if isinstance(remedy.value, bool) else _list(remedy.value)
    if remedy.syntax == "json":
        section = remedy.key.partition(".")[0]
        return f'{{"{section}": {{"{camel(_name(remedy))}": {value}}}}}'
    if remedy.syntax == "yaml":
        return f"{_name(remedy)}: {value}"
    return f"[tool.fence]\n{_name(remedy)} = {value}"


def _name(remedy: Remedy) -> str:
    return remedy.key.partition(".")[2]


def _list(values: Iterable[str | int]) -> str:
    """As Python, TOML, JSON and YAML all write it."""
    return f"[{', '.join(str(each) if isinstance(each, int) else _quoted(each) for each in values)}]"


def _quoted(text: str) -> str:
    backslashed = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{backslashed}"'

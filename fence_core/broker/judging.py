"""What the policies in force say of a request: pure functions of an account and what is asked.

Nothing is read from the system here, no violation recorded, and nobody answered. What is counted is which entries have
allowed something.

An account is a `Binding`, with the judges of its session and of those around it: all of them must allow what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fence_core.policy.domains import is_loopback_name, is_this_machine
from fence_core.policy.requests import Connect, Resolve

if TYPE_CHECKING:
    from fence_core.broker.scopes import Binding
    from fence_core.dns.search import Verdict
    from fence_core.policy.decide import Judge
    from fence_core.policy.decision import Decision
    from fence_core.policy.model import Remedy, Rule
    from fence_core.policy.requests import Fault, Request


HasPort = Callable[[str, int], bool]
"""Whether a port of loopback was bound inside."""


class Objection:
    """That a session does not allow what is asked."""

    __slots__ = ("binding", "decision", "request")

    def __init__(self, binding: Binding, request: Request | Fault, decision: Decision) -> None:
        self.binding = binding
        """On whose account it is there."""
        self.request = request
        """What that session was asked."""
        self.decision = decision
        """Why not."""

    @property
    def audited(self) -> bool:
        """Whether the session only takes note of it."""
        return self.binding.worker.scope.mode == "audit" or self.is_learnt

    @property
    def is_learnt(self) -> bool:
        """Whether the session lets it through, to make a rule of it."""
        return self.binding.worker.scope.mode == "learn" and self.decision.may_be_learnt()


class Route(NamedTuple):
    """Whether a name may be connected to, and where it is."""

    refusal: Decision | None
    """What is against it; None: it may."""
    to: tuple[str, int] | None
    """Address and port that the policy pins it to."""
    remedy: Remedy | None = None
    absent: bool = False
    """The policy says that there is no such name: no violation."""


def allowed(account: Binding, request: Request) -> bool:
    return all(_says_yes(binding, judge, request) for binding, judge in account.judges)


def _says_yes(binding: Binding, judge: Judge, request: Request) -> bool:
    decision = judge.decide(request)
    if decision.allowed:
        _count(binding, request, decision.rule)
    return decision.allowed


def _count(binding: Binding, request: Request, rule: Rule) -> None:
    """Note that an entry was of use; of paths that would say little, since the kernel allows most of them."""
    if rule.entry and rule.key.startswith("network."):
        scope = binding.worker.scope
        scope.ledger.used(rule, binding.nodeid)
        if scope.on_use is not None:
            scope.on_use(request, rule)


def ignore(binding: Binding, decision: Decision) -> None:
    """Count a refusal that is not a violation, since an entry of the policy says that it is known."""
    if decision.why == "ignored":
        binding.worker.scope.ledger.used(decision.rule, binding.nodeid)


def enforces(account: Binding) -> bool:
    """Whether any session refuses what its policy does not allow."""
    return any(binding.worker.scope.mode != "audit" for binding, _ in account.judges)


def would_refuse(account: Binding, request: Request) -> bool:
    """Whether it is not only noted, but refused; or learnt, which is for what is really sent."""
    return any(
        binding.worker.scope.mode != "audit" and not judge.decide(request).allowed for binding, judge in account.judges
    )


def learns(account: Binding) -> bool:
    """Whether what no rule lists happens all the same, and is taken down as what rules are to be made of."""
    return account.judges[-1][0].worker.scope.mode == "learn"  # the outermost; no other session can


def lets_learn(account: Binding, request: Request) -> bool:
    """Whether it may happen since all that object to it only learn."""
    return learns(account) and all(each.audited for each in objections(account, request))


def objections(account: Binding, request: Request) -> list[Objection]:
    """Innermost first."""
    decided = ((binding, judge.decide(request)) for binding, judge in account.judges)
    return [Objection(binding, request, decision) for binding, decision in decided if not decision.allowed]


def upstream_proxy(account: Binding) -> str | None:
    """The proxy that the innermost policy with a say names, if those around it agree.

    The filter, which is in no fence, connects to it, and hands everything over that is for an allowed name.
    """
    for place, (binding, _) in enumerate(account.judges):
        proxy = binding.rules().network.upstream_proxy
        if proxy and all(_agrees(around, judge, proxy) for around, judge in account.judges[place + 1 :]):
            return proxy
    return None


def _agrees(binding: Binding, judge: Judge, proxy: str) -> bool:
    """Whether a session lets one inside it go by this proxy: it does itself, or by none, and may connect to that."""
    own = binding.rules().network.upstream_proxy
    if own == proxy or binding.worker.scope.mode == "audit":
        return True
    from urllib.parse import urlsplit

    try:
        url = urlsplit(proxy)
        host, port = url.hostname, url.port or 80
    except ValueError:
        return False
    return not own and host is not None and judge.decide(Connect(host, port)).allowed


def why_not(account: Binding, request: Request) -> Decision | None:
    """The first decision against it that is not only noted; None if there is none."""
    return next((each.decision for each in objections(account, request) if not each.audited), None)


def route(account: Binding, name: str, port: int, has_port: HasPort) -> tuple[Route, list[Objection]]:
    """Whether this account may connect to a name, where the policy says that the name is, and what is to be recorded.

    From the inside out: where a session's own policy pins the name to an address, those around it are asked about
    that address, since nobody else is reached.
    """
    to: tuple[str, int] | None = None
    refusal: Decision | None = None
    absent = False
    told: list[Objection] = []
    for binding, judge in account.judges:
        request = Connect(name, port)
        if to is None:
            to = judge.pinned(name, port)
            if to is not None and _says_yes(binding, judge, request):
                continue
            if to is None and is_this_machine(name) and not is_loopback_name(name):
                to = ("127.0.0.1", port)  # wherever else it leads outside
        else:
            request = Connect(*to, inside=has_port(*to))
        if _says_yes(binding, judge, request):
            continue
        decision = judge.decide(request)
        if decision.quiet:
            ignore(binding, decision)
            absent = absent or decision.why == "denied"
            refusal = refusal or decision
            continue
        objection = Objection(binding, request, decision)
        told.append(objection)
        if not objection.audited:
            refusal = refusal or decision
    return Route(refusal, to, absent=absent), told


def on_name(account: Binding, name: str, exists: Callable[[str], bool] = lambda _: True) -> Verdict:
    """What is answered to a query for this name. `exists`: whether there is such a name outside, for who learns."""
    from fence_core.dns.search import Verdict

    verdict = Verdict.ALLOW
    for binding, judge in account.judges:
        request = Resolve(name)
        decision = judge.decide(request)
        absent = decision.quiet and decision.why != "ignored"
        if decision.allowed or absent:
            _count(binding, request, decision.rule)
        if absent:
            return Verdict.QUIET
        if not decision.allowed:
            objection = Objection(binding, request, decision)
            if not objection.audited or (objection.is_learnt and not exists(name)):
                verdict = Verdict.REFUSE
        if judge.pinned(name) is not None:
            return verdict  # those around are asked about the address
    return Verdict.HERE if verdict is Verdict.ALLOW and is_this_machine(name) else verdict

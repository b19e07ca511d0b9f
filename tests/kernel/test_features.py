"""What the kernel says it can do, it does; what is taken away, is missed."""

from __future__ import annotations

import errno
import os

import pytest

from fence_core.errors import FenceUnavailable
from fence_core.kernel import arch, bpf, features, libc, process
from tests.kernel.children import install_filter


def asked_again_without(*names: str) -> list[tuple[str, bool, str]]:
    calls = arch.current().calls
    libc.set_no_new_privs()
    refused = bpf.errno_action(errno.EPERM)
    install_filter(bpf.assemble({calls[name]: refused for name in names}))
    features._features = None
    return [tuple(feature) for feature in features.detect()]


def test_asking_leaves_nothing_behind(in_child) -> None:
    """No filter, no ruleset, no descriptor."""

    def work() -> tuple[bool, bool]:
        def traces() -> tuple[object, ...]:
            status = process.read_proc("/proc/self/status")
            fields = [process.field(status, name) for name in (b"Seccomp", b"Seccomp_filters", b"NoNewPrivs")]
            return (*fields, sorted(os.listdir("/proc/self/fd")))

        before = traces()
        features._features = None
        features.detect()
        return before == traces(), features.detect() is features.detect()

    assert in_child(work) == (True, True)


@pytest.mark.parametrize(
    ("call", "lost"),
    [
        ("landlock_create_ruleset", {"landlock", "landlock_network", "landlock_scopes"}),
        ("pidfd_open", {"pidfd_open", "pidfd_getfd"}),
        ("pidfd_getfd", {"pidfd_getfd"}),
        ("process_vm_readv", {"process_vm_readv"}),
        ("seccomp", {"seccomp", "wait_killable"}),
        ("getppid", set()),
    ],
)
def test_refused_call_is_missed_with_the_reason(in_child, call, lost) -> None:
    before = {feature.name for feature in features.detect() if not feature.available}
    after = {name: detail for name, good, detail in in_child(lambda: asked_again_without(call)) if not good}
    assert set(after) == before | lost
    for name in lost - before:
        assert os.strerror(errno.EPERM) in after[name]


@pytest.mark.needs("kernel:seccomp", "kernel:landlock")
def test_require() -> None:
    features.detect().require(["seccomp", "landlock"])
    with pytest.raises(FenceUnavailable, match="no_such_layer"):
        features.detect().require(["no-such-layer"])


def test_required_and_missing(in_child) -> None:
    def work() -> str:
        asked_again_without("landlock_create_ruleset")
        try:
            features.detect().require(["landlock"])
        except FenceUnavailable as error:
            return str(error)
        return ""

    text = in_child(work)
    assert "landlock" in text
    assert os.strerror(errno.EPERM) in text or "not built in" in text

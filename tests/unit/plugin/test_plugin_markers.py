"""``@pytest.mark.fence(...)``: which policy a test gets, and what a wrong marker says."""

from __future__ import annotations

import pathlib

import pytest

from fence_core.policy.model import Source
from pytest_fence import markers
from tests.unit.plugin.faked_pytest import FakedPytest


def policies(faked: FakedPytest) -> dict[str, list[object]]:
    """Name of each test that ran under a policy of its own, and what its markers say, the closest last."""
    assert faked.fence is not None
    return {
        nodeid.rpartition("::")[2]: [raw for raw, _ in faked.fence.policies[policy - 1]]
        for nodeid, _, policy in faked.fence.entered
        if policy
    }


def test_functions_classes_and_modules_add_up(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.fence(allowed_domains=["module.test"], allow_local_binding=False)

        def test_module(): pass

        @pytest.mark.fence(allowed_domains=["class.test"])
        class TestIt:
            def test_class(self): pass

            @pytest.mark.fence(allowed_domains=("function.test",), allow_local_binding=True, allow_write=["out"])
            def test_function(self): pass
        """
    )
    faked.run().assert_outcomes(passed=3)
    module = {"allowed_domains": ["module.test"], "allow_local_binding": False}
    it = {"allowed_domains": ["class.test"]}
    function = {"allowed_domains": ["function.test"], "allow_local_binding": True, "allow_write": ["out"]}
    assert policies(faked) == {
        "test_module": [module],
        "test_class": [module, it],
        "test_function": [module, it, function],
    }


def test_each_marker_says_where_it_is(faked: FakedPytest) -> None:
    """What is on several things names none of them."""
    path = faked.pytester.makepyfile(
        test_it="""
        import pytest
        pytestmark = pytest.mark.fence(allow_write=["module"])
        shared = pytest.mark.fence(allow_write=["shared"])

        @pytest.mark.fence(allow_write=["class"])
        class TestIt:
            @pytest.mark.parametrize("n", [1, 2])
            @pytest.mark.fence(allow_write=["function"])
            def test_a(self, n): pass

        @shared
        def test_b(): pass

        @shared
        def test_c(): pass
        """
    )
    faked.run().assert_outcomes(passed=4)
    assert faked.fence is not None
    written = {str(raw["allow_write"]): source for layers in faked.fence.policies for raw, source in layers}
    assert written == {
        "['module']": Source("@pytest.mark.fence of the module", str(path)),
        "['class']": Source("@pytest.mark.fence of the class", str(path), 5),
        "['function']": Source("@pytest.mark.fence of the test", str(path), 7),
        "['shared']": Source("@pytest.mark.fence of the test"),
    }


def test_where_a_test_runs_is_no_rule(faked: FakedPytest) -> None:
    faked.pytester.makepyfile("import pytest\n@pytest.mark.fence(scope='session')\ndef test_a(): pass\n")
    faked.run().assert_outcomes(passed=1)
    assert faked.fence is not None
    assert not faked.fence.policies


def test_one_test_does_not_leak_into_the_next(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        """
        import pytest
        def test_a(): pass
        @pytest.mark.fence(allow_write=["x"])
        def test_b(): pass
        def test_c(): pass
        """
    )
    faked.run()
    assert faked.fence is not None
    numbers = {nodeid.rpartition("::")[2]: policy for nodeid, phase, policy in faked.fence.entered if phase == "call"}
    assert numbers == {"test_a": 0, "test_b": 1, "test_c": 0}
    between = [policy for nodeid, phase, policy in faked.fence.entered if phase == "session"]
    assert set(between) == {0}


def test_all_phases_of_a_test_have_its_policy(faked: FakedPytest) -> None:
    faked.pytester.makepyfile("import pytest\n@pytest.mark.fence(allow_write=['x'])\ndef test_a(): pass\n")
    faked.run()
    assert faked.fence is not None
    assert {(phase, policy) for nodeid, phase, policy in faked.fence.entered if "::" in nodeid} == {
        ("setup", 1),
        ("call", 1),
        ("teardown", 1),
    }


def test_what_is_the_same_is_registered_once(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.fence(allow_write=["m"])
        @pytest.mark.parametrize("n", range(50))
        def test_a(n): pass
        def test_b(): pass
        @pytest.mark.fence(allow_write=["f"])
        @pytest.mark.parametrize("n", range(50))
        def test_c(n): pass
        """
    )
    faked.run().assert_outcomes(passed=101)
    assert faked.fence is not None
    assert len(faked.fence.policies) == 2


def test_what_no_test_uses_is_not_registered(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        "import pytest\n@pytest.mark.fence(allow_write=['x'])\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    faked.run("-k", "test_b").assert_outcomes(passed=1, deselected=1)
    assert faked.fence is not None
    assert not faked.fence.policies


def test_markers_of_a_collection_hook_and_of_parameters(faked: FakedPytest) -> None:
    faked.pytester.makeconftest(
        """
        import pytest
        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            for item in items:
                if "hook" in item.name: item.add_marker(pytest.mark.fence(allow_write=["hook"]))
        """
    )
    faked.pytester.makepyfile(
        """
        import pytest
        def test_hook(): pass
        @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.fence(allow_write=["param"]))])
        def test_p(n): pass
        """
    )
    faked.run().assert_outcomes(passed=3)
    assert policies(faked) == {
        "test_hook": [{"allow_write": ["hook"]}],
        "test_p[2]": [{"allow_write": ["param"]}],
    }


BAD = """
import pytest

@pytest.mark.fence(allowed_domain=["x.test"])
def test_unknown(): pass

@pytest.mark.fence("x.test")
def test_positional(): pass

@pytest.mark.fence(allow_write="x")
class TestIt:
    def test_type(self): pass

@pytest.mark.fence()
def test_empty(): pass

def test_fine(): pass
"""


@pytest.mark.parametrize("args", [[], ["--collect-only"]])
def test_every_wrong_marker_is_named_before_any_test_runs(faked: FakedPytest, args: list[str]) -> None:
    faked.pytester.makepyfile(test_it=BAD)
    result = faked.run("-v", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: the markers of these tests cannot be used:",
            "  test_it.py:3 (test_it.py::test_unknown): @pytest.mark.fence: allowed_domain: *allowed_domains*",
            "  test_it.py:6 (test_it.py::test_positional): @pytest.mark.fence takes keyword arguments only, *'x.test'",
            "  test_it.py:9 (test_it.py::TestIt): @pytest.mark.fence: allow_write: *",
            "  test_it.py:13 (test_it.py::test_empty): @pytest.mark.fence without arguments says nothing",
        ]
    )
    result.stdout.no_fnmatch_line("*PASSED*")
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_wrong_marker_on_a_module_is_named_once(faked: FakedPytest) -> None:
    faked.pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.fence(nonsense=1)\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    result = faked.run()
    assert len([line for line in result.errlines if "nonsense" in line]) == 1
    result.stderr.fnmatch_lines(["  test_it.py: @pytest.mark.fence: nonsense: *"])


def test_markers_do_nothing_without_a_fence(faked: FakedPytest) -> None:
    """Also wrong ones: a run without a fence pays for none."""
    faked.pytester.makepyfile(test_it=BAD)
    faked.run("--strict-markers", fence=False).assert_outcomes(passed=5)


def test_the_marker_is_documented(faked: FakedPytest) -> None:
    for fence in (False, True):
        faked.run("--markers", fence=fence).stdout.fnmatch_lines(["@pytest.mark.fence(*allowed_domains*): *"])


def test_a_policy_that_the_engine_refuses_fails_that_test(faked: FakedPytest, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.plugin import fakes

    def refuse(self: object, layers: object, base: int = 0) -> int:
        raise fakes.engine.FenceError("too many policies")

    monkeypatch.setattr(fakes.FakeFence, "register_policy", refuse)
    faked.pytester.makepyfile(
        "import pytest\n@pytest.mark.fence(allow_write=['x'])\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    result = faked.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["the marker of this test cannot be used: too many policies"])


def test_arguments_become_plain_data() -> None:
    plain = markers.plain({"allow_write": (pathlib.Path("/x"), "y"), "hosts": {"a": ("b",)}, "ports": {3, 1}})
    assert plain == {"allow_write": ["/x", "y"], "hosts": {"a": ["b"]}, "ports": [1, 3]}

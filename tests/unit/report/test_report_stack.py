"""Which lines of a Python stack are shown, and which fixture they belong to."""

from __future__ import annotations

from fence_core.events.model import Frame
from fence_core.report.stack import Fixture, View

PYTEST = "/venv/lib/python3.12/site-packages/_pytest"
TEST = Frame("/proj/tests/test_a.py", 3, "test_a")
FILES = {
    "/proj/tests/test_a.py": ["import shop\n", "def test_a():\n", "\tshop.price('x')\n"],
    "/proj/shop.py": ["def price(name):\n", "    return fetch(name)\n"],
}


def view(**changes: object) -> View:
    known: dict[str, object] = {
        "root": "/proj",
        "hidden": [PYTEST, "/venv/lib/python3.12/site-packages/pluggy"],
        "stdlib": ["/usr/lib/python3.12"],
        "read_lines": lambda path: FILES.get(path, []),
    }
    return View(**{**known, **changes})  # type: ignore[arg-type]


def pytest_frames() -> list[Frame]:
    return [
        Frame("/venv/bin/pytest", 8, "<module>"),
        Frame(f"{PYTEST}/config/__init__.py", 201, "console_main"),
        Frame(f"{PYTEST}/python.py", 159, "pytest_pyfunc_call"),
    ]


def library_frames() -> list[Frame]:
    return [
        Frame("/venv/lib/python3.12/site-packages/requests/api.py", 73, "get"),
        Frame("/usr/lib/python3.12/socket.py", 836, "create_connection"),
    ]


def test_only_the_readers_own_frames_remain() -> None:
    own = [TEST, Frame("/proj/shop.py", 2, "price")]
    assert view().trim([*pytest_frames(), *own, *library_frames()]) == own


def test_the_program_that_started_pytest_is_no_code_of_the_reader() -> None:
    script = Frame("/proj/run_tests.py", 1, "<module>")
    assert view().trim([script, *pytest_frames(), TEST]) == [TEST]


def test_what_led_to_the_last_runner_is_left_out() -> None:
    runner = Frame(f"{PYTEST}/runner.py", 344, "from_call")
    outer = Frame("/proj/tests/test_outer.py", 9, "test_outer")
    seen = view(runner=runner.path)
    assert seen.trim([*pytest_frames(), runner, outer, *pytest_frames(), runner, TEST]) == [TEST]
    # A fixture that a test asks for comes after frames of pytest, but not of the runner.
    fixture = Frame("/proj/tests/conftest.py", 4, "db")
    asked = Frame(f"{PYTEST}/fixtures.py", 500, "getfixturevalue")
    assert seen.trim([runner, TEST, asked, fixture]) == [TEST, fixture]


def test_without_frames_of_the_reader_a_library_is_shown_where_it_begins() -> None:
    """And is not the place to look at: that is the test."""
    thread = Frame("/usr/lib/python3.12/threading.py", 1073, "_bootstrap_inner")
    client = Frame("/venv/lib/python3.12/site-packages/posthog/consumer.py", 40, "run")
    for before in pytest_frames(), [thread]:
        assert view().trim([*before, client, *library_frames()]) == [client]
        assert view().culprit([*before, client, *library_frames()]) is None
    assert view().trim([thread]) == [thread]
    assert view().culprit([thread]) is None


def test_nobody_has_led_to_what_a_thread_runs() -> None:
    """What it calls of pytest's, as `pytest.raises`, is no beginning."""
    begins = [Frame("/usr/lib/python3.12/threading.py", 1012, "_bootstrap")]
    target = Frame("/proj/tests/test_a.py", 5, "<lambda>")
    raises = Frame(f"{PYTEST}/python_api.py", 950, "raises")
    assert view().trim([*begins, target, raises, *library_frames()]) == [target]


def test_a_stack_of_the_runner_alone_is_better_than_none() -> None:
    assert view().trim(pytest_frames()[1:]) == pytest_frames()[1:]


def test_no_stack_is_a_normal_case() -> None:
    assert view().trim([]) == []
    assert view().culprit([]) is None
    assert view().fixture([]) is None


def test_a_directory_is_hidden_as_a_whole_and_not_by_its_first_letters() -> None:
    sibling = Frame("/proj/lib/python3.12-compat/x.py", 1, "f")
    assert view(stdlib=["/proj/lib/python3.12"]).trim([sibling, *library_frames()[:1]]) == [sibling]


def test_importing_leaves_no_trace_of_importlib() -> None:
    frozen = Frame("<frozen importlib._bootstrap>", 1007, "_find_and_load")
    module = Frame("/proj/tests/test_a.py", 1, "<module>")
    assert view().trim([*pytest_frames(), frozen, module, frozen]) == [module]


def test_paths_are_relative_to_where_pytest_was_started() -> None:
    assert view(cwd="/proj/tests").path("/proj/tests/test_a.py") == "test_a.py"
    assert view(cwd="/proj/tests").path("/proj/shop.py") == "../shop.py"
    assert view().path("/projects/shop.py") == "/projects/shop.py"
    assert view().path("/proj/a\x1b[31m.py") == "a\\x1b[31m.py"


def test_a_source_line_is_shown_without_indentation_and_control_characters() -> None:
    assert view().source(TEST) == "shop.price('x')"
    assert view(read_lines=lambda _: ["x = '\x1b[2J\u202e'\n"]).source(Frame("/proj/x.py", 1, "f")) == (
        "x = '\\x1b[2J\\u202e'"
    )


def test_a_line_that_is_not_there_is_empty() -> None:
    assert view().source(Frame("/proj/shop.py", 99, "f")) == ""
    assert view().source(Frame("/proj/gone.py", 1, "f")) == ""


FIXTURES = """
import pytest, pytest_asyncio

@pytest.fixture(scope="module")
def db():
    yield 1
    close()

@pytest_asyncio.fixture
async def client():
    connect()

@pytest.fixture(name="api", scope=SCOPE)
def _api():
    connect()

def helper():
    connect()
"""


def fixture_at(line: int, function: str) -> Fixture | None:
    seen = view(read_lines=lambda _: FIXTURES.splitlines(keepends=True))
    fixture = seen.fixture([TEST, frame(line, function)])
    return fixture and fixture._replace(path="", line=0)


def frame(line: int, function: str) -> Frame:
    return Frame("/proj/tests/conftest.py", line, function)


def test_the_fixture_of_a_stack_is_found_by_its_decorator() -> None:
    assert fixture_at(7, "db") == Fixture("db", "module")
    assert fixture_at(11, "client") == Fixture("client", "function")
    assert fixture_at(15, "_api") == Fixture("api", "function")


def test_other_functions_are_no_fixtures() -> None:
    assert fixture_at(18, "helper") is None
    assert fixture_at(99, "db") is None


def test_a_fixture_that_asks_for_another_is_not_the_one() -> None:
    seen = view(read_lines=lambda _: FIXTURES.splitlines(keepends=True))
    assert seen.fixture([frame(7, "db"), frame(15, "_api")]) == Fixture(
        "api", "function", "/proj/tests/conftest.py", 14
    )


def test_reading_source_warns_of_nothing() -> None:
    seen = view(read_lines=lambda _: ["x = '\\d'\n", *FIXTURES.splitlines(keepends=True)])
    assert seen.fixture([frame(8, "db")]) == Fixture("db", "module", "/proj/tests/conftest.py", 6)


def test_source_that_does_not_parse_has_no_fixtures() -> None:
    assert view(read_lines=lambda _: ["def broken(:\n"]).fixture([frame(1, "broken")]) is None

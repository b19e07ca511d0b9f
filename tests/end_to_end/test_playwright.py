"""pytest-playwright with Debian's Chromium: the page that a test opens is that test's doing, at the test's own line.

Playwright's sync API runs an event loop in a greenlet, and the browser is a process of the session's, as is the driver
that starts it. The browser is told to look up nothing but the names under test.
"""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced

pytest.importorskip(
    "pytest_playwright", reason="elsewhere: pytest-playwright brings 200 MB, so it is not installed with the others"
)

POLICY = """
[tool.fence]
# Tried in any case: whether there is IPv6 (nothing is sent), and, when a page is not found, whether another one is.
allowed_domains = ["[2001:4860:4860::8888]:443", "[2001:4860:4860::8888]:53"]
hosts = {"google.com" = "127.0.0.1:9"}
"""
CONFTEST = """
import http.server, os, threading
import pytest

PAGES = {"/": "<h1>nothing</h1>", "/tracked": "<img src='http://tracker.test/'>"}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGES.get(self.path, "").encode())

    def log_message(self, *_):
        pass

@pytest.fixture(scope="session")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()

@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args, tmp_path_factory):
    home = str(tmp_path_factory.mktemp("home"))
    buses = {f"DBUS_{bus}_BUS_ADDRESS": "disabled:" for bus in ("SESSION", "SYSTEM")}
    return {
        **browser_type_launch_args,
        "executable_path": "/usr/bin/chromium",
        "args": ["--no-sandbox", "--disable-quic", "--disable-features=HttpsUpgrades",
                 "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.test, EXCLUDE 127.0.0.1"],
        "timeout": 0,
        "env": {**os.environ, **buses, "HOME": home},
    }

@pytest.fixture(autouse=True)
def patience(page):
    page.set_default_navigation_timeout(0)
"""


@pytest.mark.needs("program:chromium")
def test_pages(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import pytest
        from playwright.sync_api import Error

        def test_page(page, site):
            page.goto(site)
            assert page.text_content("h1") == "nothing"

        def test_tracked(page, site):
            page.goto(f"{site}/tracked")  # tracked

        def test_elsewhere(page):
            with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
                page.goto("http://elsewhere.test/")  # elsewhere

        def test_after(page, site):
            page.goto(site)
        """,
        policy=POLICY,
        files={"conftest.py": CONFTEST},
        plugins=["pytest_playwright.pytest_playwright"],
    )
    for test, name in {"test_tracked": "tracker.test", "test_elsewhere": "elsewhere.test"}.items():
        text = run.blamed(f"{test}[chromium]")["text"]
        found = {v.what: v for v in run.attempts(f"{test}[chromium]")}
        assert set(found) == {f"resolve {name}"}, run
        assert f"# {test.removeprefix('test_')}" in text, text
        assert "that fixture playwright (session) started" in text, text
        run.has(rf"resolve {name}.*, test_it\.py:\d+$")
        starter = found[f"resolve {name}"].plain["started_by"]
        assert (starter["fixture"], starter["scope"]) == ("playwright", "session")
    run.clean("test_page[chromium]", "test_after[chromium]")
    assert run.status == 1

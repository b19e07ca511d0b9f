"""A worker that a session's fixture starts and that works for each test in turn: Celery's, with Redis."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import AWAY, Fenced

CELERY = {
    "tasks.py": """
    import os, socket
    from celery import Celery
    from here import AWAY

    app = Celery("tasks", broker=os.environ["REDIS"], backend=os.environ["REDIS"])

    @app.task
    def add(a, b):
        return a + b

    @app.task
    def notify():
        with socket.socket() as s:
            return s.connect_ex((AWAY, 443))
    """,
    "conftest.py": """
    import os, subprocess, sys
    import pytest

    @pytest.fixture(scope="session")
    def redis(tmp_path_factory):
        place = tmp_path_factory.mktemp("redis") / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", place, "--save", "", "--dir", place.parent]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while "eady to accept connections" not in (line := server.stdout.readline()):
            assert line
        yield place
        server.terminate()
        server.communicate()

    @pytest.fixture(scope="session")
    def prefork_worker(redis):
        os.environ["REDIS"] = f"redis+socket://{redis}"
        options = ["--concurrency=1", "--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = subprocess.Popen([sys.executable, "-m", "celery", "-A", "tasks", "worker", *options])
        import tasks
        yield tasks
        tasks.app.close()
        worker.terminate()
        worker.wait()
    """,
}


@pytest.mark.needs("module:celery", "program:redis-server")
def test_celery(fenced: Fenced) -> None:
    run = fenced.run(
        """
        def test_add(prefork_worker):
            assert prefork_worker.add.delay(1, 2).get(timeout=60) == 3

        def test_notify(prefork_worker):
            assert prefork_worker.notify.delay().get(timeout=60) == 13

        def test_after(prefork_worker):
            assert prefork_worker.add.delay(3, 4).get(timeout=60) == 7
        """,
        files=CELERY,
    )
    run.clean("test_add", "test_after")
    text = run.blamed("test_notify")["text"]
    (found,) = run.attempts("test_notify")
    assert found.what == f"connect {AWAY}:443/tcp"
    assert "that fixture prefork_worker (session) started" in text, text
    assert run.line_of(found) in ("", "assert prefork_worker.notify.delay().get(timeout=60) == 13"), run  # if it waits

"""The line that waits for what was refused, in libraries that have it done by somebody else than who asked for it."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.caught import AWAY, Caught, Fenced

LOOK_UP = 'urllib.request.urlopen(f"http://{name}.example.net/")  # look up'


def told(run: Caught, lines: dict[str, str]) -> None:
    """Each of these tests is blamed for one thing, at the line with that comment; no line of a library is a place."""
    for test, comment in lines.items():
        run.blamed(test)
        (found,) = run.attempts(test)
        assert run.line_of(found).endswith(f"# {comment}"), f"{test}: {run.line_of(found)}\n{run!r}"
    for line in run.out.splitlines():
        assert not (", /" in line and ".py:" in line), line


def test_asyncio(fenced: Fenced) -> None:
    """Names are looked up in a thread, and whoever awaits is on no stack. The chain may lead through further tasks."""
    run = fenced.run(
        """
        import asyncio, urllib.request
        import pytest

        async def fetch(name):
            with pytest.raises(OSError):
                await asyncio.get_running_loop().getaddrinfo(f"{name}.example.net", 443)  # fetch

        async def service(name):
            await fetch(name)

        def test_plain():
            asyncio.run(service("plain"))

        def test_gather():
            async def main():
                await asyncio.gather(asyncio.sleep(0), service("gather"))
            asyncio.run(main())

        def test_library_in_a_task():
            async def main():
                with pytest.raises(OSError):
                    await asyncio.wait_for(asyncio.shield(asyncio.open_connection("name.example.net", 443)), 60)  # task
            asyncio.run(main())

        def test_connects_in_a_task():
            async def main():
                with pytest.raises(OSError):
                    connecting = asyncio.ensure_future(asyncio.open_connection("198.51.100.7", 443))
                    await asyncio.wait_for(connecting, 60)  # two
            asyncio.run(main())

        def test_library_in_a_thread():
            async def main():
                with pytest.raises(OSError):
                    await asyncio.to_thread(urllib.request.urlopen, "http://198.51.100.7/")  # thread
            asyncio.run(main())

        def test_generators():
            async def items():
                await service("generator")
                yield 1
            async def main():
                assert [item async for item in items()] == [1]
            asyncio.run(main())
        """
    )
    told(
        run,
        {
            "test_plain": "fetch",
            "test_gather": "fetch",
            "test_library_in_a_task": "task",
            "test_connects_in_a_task": "two",
            "test_library_in_a_thread": "thread",
            "test_generators": "fetch",
        },
    )
    functions = [frame.function for frame in run.attempts("test_plain")[0].stack]
    assert [name for name in functions if name in ("test_plain", "service", "fetch")] == [
        "test_plain",
        "service",
        "fetch",
    ]


def test_threads(fenced: Fenced) -> None:
    """A thread that runs nothing of the test's has the line at which the test waits for it, if it does."""
    run = fenced.run(
        """
        import concurrent.futures, sys, threading, urllib.request
        import pytest

        sys.path.insert(0, "lib/site-packages")
        from pooled import fetch

        def test_joined():
            thread = threading.Thread(target=fetch)
            thread.start()
            thread.join()  # joined

        def test_result():
            with concurrent.futures.ThreadPoolExecutor() as pool:
                pool.submit(fetch).result()  # result

        def test_several():
            with concurrent.futures.ThreadPoolExecutor() as pool:
                concurrent.futures.wait([pool.submit(fetch)])  # several

        def test_ends():
            with concurrent.futures.ThreadPoolExecutor() as pool:  # ends
                pool.submit(fetch)

        def test_lambda():
            thread = threading.Thread(target=lambda: pytest.raises(OSError, fetch, quietly=False))  # lambda
            thread.start()
            thread.join()
        """,
        files={
            "lib/site-packages/pooled.py": """
            import sys, threading, time, urllib.request

            def fetch(quietly=True):
                main = threading.main_thread().ident
                while not waits(sys._current_frames()[main]):
                    time.sleep(0.001)
                try:
                    urllib.request.urlopen("http://198.51.100.7/")
                except OSError:
                    if not quietly:
                        raise

            def waits(frame):
                while frame is not None:
                    name, inside = frame.f_code.co_name, "concurrent" in frame.f_globals["__name__"]
                    if name in ("join", "result", "shutdown") or inside and name == "wait":
                        return True
                    frame = frame.f_back
                return False
            """
        },
    )
    lines = (fenced.directory / "test_it.py").read_text(encoding="utf-8").splitlines()
    for name in "joined", "result", "several", "ends", "lambda":
        run.blamed(f"test_{name}")
        (number,) = (number for number, line in enumerate(lines, 1) if line.endswith(f"# {name}"))
        run.has(rf"^test_it\.py::test_{name}\n  call: connect {re.escape(AWAY)}:80/tcp, test_it\.py:{number}$")


@pytest.mark.needs("module:uvloop", "module:anyio", "module:trio")
def test_other_loops(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import asyncio
        import anyio, anyio.from_thread, pytest, trio, uvloop

        async def fetch(name):
            with pytest.raises(OSError):
                await asyncio.get_running_loop().getaddrinfo(f"{name}.example.net", 443)  # fetch

        async def opens(name):
            with pytest.raises(OSError):
                await anyio.connect_tcp(f"{name}.example.net", 443)  # opens

        async def group(name):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(opens, name)

        def run_uvloop(what):
            loop = uvloop.new_event_loop()
            try:
                loop.run_until_complete(what)
            finally:
                loop.close()

        def test_uvloop():
            run_uvloop(fetch("uvloop"))

        def test_uvloop_connects():
            async def main():
                with pytest.raises(OSError):
                    await asyncio.open_connection("connects.example.net", 443)  # connects
            run_uvloop(main())

        def test_anyio():
            anyio.run(group, "asyncio", backend="asyncio")

        def test_anyio_on_trio():
            anyio.run(group, "trio", backend="trio")

        def test_trio():
            async def child():
                with pytest.raises(OSError):
                    await trio.open_tcp_stream("child.example.net", 443)  # child
            async def main():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child)
            trio.run(main)

        def test_portal():
            with anyio.from_thread.start_blocking_portal() as portal:
                portal.call(fetch, "portal")
        """
    )
    told(
        run,
        {
            "test_uvloop": "fetch",
            "test_uvloop_connects": "connects",
            "test_anyio": "opens",
            "test_anyio_on_trio": "opens",
            "test_trio": "child",
            "test_portal": "fetch",
        },
    )


@pytest.mark.needs("module:gevent")
def test_greenlets(fenced: Fenced) -> None:
    """The test is the greenlet that waits for the one of gevent's loop."""
    run = fenced.run(
        """
        import gevent, gevent.socket
        import pytest

        def get(name):
            with pytest.raises(OSError):
                gevent.socket.getaddrinfo(name, 443)  # get

        def test_itself():
            get("itself.example.net")

        def test_spawned():
            greenlet = gevent.spawn(gevent.socket.create_connection, ("spawned.example.net", 443))
            gevent.wait([greenlet])  # wait
            assert isinstance(greenlet.exception, OSError)
        """
    )
    told(run, {"test_itself": "get", "test_spawned": "wait"})


@pytest.mark.needs("module:greenlet")
def test_a_sync_api_over_greenlets(fenced: Fenced) -> None:
    """As Playwright's: the loop runs in a greenlet of its own, and the test in the one that this returns to. So it has
    the line of the test, too, what another program does while Python is busy with its messages."""
    run = fenced.run(
        """
        import sys
        import pytest

        sys.path.insert(0, "lib/site-packages")
        import playing

        @pytest.fixture(scope="session")
        def player():
            with playing.Player() as player:
                yield player

        def test_first(player):
            assert player.wait(0.01) is None

        def test_opens(player):
            with pytest.raises(OSError):
                player.open("name.example.net")  # opens

        def test_busy(player):
            player.busy_with("import away; away.connect()")  # busy
        """,
        files={
            "away.py": """
            import socket
            from here import AWAY

            def connect():
                with socket.socket() as s:
                    s.connect_ex((AWAY, 443))
                open("done", "w").close()
            """,
            "lib/site-packages/playing.py": """
            import asyncio, os, subprocess, sys
            from greenlet import greenlet

            class Player:
                def __enter__(self):
                    self.loop = asyncio.new_event_loop()
                    self.over = self.loop.create_future()
                    self.dispatcher = greenlet(lambda: self.loop.run_until_complete(self.over))
                    return self

                def __exit__(self, *_):
                    self.over.set_result(None)
                    self.dispatcher.switch()
                    self.loop.close()

                def sync(self, what):
                    task = self.loop.create_task(what)
                    here = greenlet.getcurrent()
                    task.add_done_callback(lambda _: here.switch())
                    while not task.done():
                        self.dispatcher.switch()
                    return task.result()

                def wait(self, seconds):
                    return self.sync(asyncio.sleep(seconds))

                def open(self, name):
                    return self.sync(asyncio.open_connection(name, 443))

                def busy_with(self, program):
                    async def works():
                        with subprocess.Popen([sys.executable, "-c", program]):
                            while not os.path.exists("done"):
                                pass
                    return self.sync(works())
            """,
        },
    )
    run.clean("test_first")
    for name, what in ("opens", "resolve name.example.net"), ("busy", f"connect {AWAY}:443/tcp"):
        text = run.blamed(f"test_{name}")["text"]
        assert f"# {name}" in text, text
        assert "playing.py" not in text, text
        run.has(rf"{re.escape(what)}, test_it\.py:\d+$")


def test_threads_have_names_and_libraries_a_beginning(fenced: Fenced) -> None:
    """A thread that a library keeps is named, and shown where the library begins; the place is the test."""
    run = fenced.run(
        """
        import sys, threading
        import pytest

        sys.path.insert(0, "lib/site-packages")
        import telemetry

        def test_it():
            telemetry.send()
        """,
        files={
            "lib/site-packages/telemetry/__init__.py": """
            import threading
            from telemetry.transport import post

            def loop(done):
                post()
                done.set()

            def send():
                done = threading.Event()
                threading.Thread(target=loop, args=(done,), name="telemetry-sender").start()
                assert done.wait(60)
            """,
            "lib/site-packages/telemetry/transport.py": """
            import urllib.request

            def post():
                try:
                    urllib.request.urlopen("http://198.51.100.7/")
                except OSError:
                    pass
            """,
        },
    )
    text = run.blamed("test_it")["text"]
    assert "in thread telemetry-sender" in text, text
    assert "telemetry/__init__.py:6: in loop" in text, text
    assert "transport.py" not in text, text
    assert "socket.py" not in text, text
    (found,) = run.attempts("test_it")
    assert found.plain["program"]["thread"] == "telemetry-sender"
    assert "connect 198.51.100.7:80/tcp\n" in run.out  # and no line of a library behind it


def test_rubbish_on_the_page(fenced: Fenced) -> None:
    """What a test writes there in the place of answers changes no verdict, and not what is said of the next test."""
    run = fenced.run(
        """
        import ctypes, itertools, os, threading, urllib.request
        import pytest

        FALSE = '{"lines": [["\\n::error::/etc/passwd", 1, "f"]], "joint": -1, "thread": "x", "whole": 0}'
        ANSWERS = [b"", b"[" * 30000, FALSE.encode()]

        def rubbish(address, done):
            words = (ctypes.c_uint64 * 8).from_address(address)
            for answer in itertools.cycle(ANSWERS):
                if done.is_set():
                    return
                ctypes.memmove(address + 65536, answer, len(answer))
                words[7] = 1 << 63 | len(answer)
                words[6] = words[5] >> 32

        def look_up(name):
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://{name}.example.net/")  # look up

        def test_hostile():
            done = threading.Event()
            mapped = [line for line in open("/proc/self/maps") if "memfd:fence-page" in line]
            addresses = [int(line.partition("-")[0], 16) for line in mapped]
            threads = [threading.Thread(target=rubbish, args=(each, done)) for each in addresses]
            asking = [threading.Thread(target=look_up, args=(f"hostile{n}",)) for n in range(5)]
            for each in threads + asking:
                each.start()
            look_up("main")
            for each in asking:
                each.join()
            done.set()
            for each in threads:
                each.join()
            assert len(addresses) == 1

        def test_after():
            thread = threading.Thread(target=look_up, args=("after",), name="lookup")
            thread.start()
            thread.join()
        """
    )
    run.blamed("test_hostile")
    names = ["main", *(f"hostile{n}" for n in range(5))]
    assert sorted(found.what for found in run.attempts("test_hostile")) == sorted(
        f"resolve {name}.example.net" for name in names
    )
    assert not any(line.startswith("::error::") for line in run.out.splitlines()), run
    found = run.refused("test_after", "resolve after.example.net", line=LOOK_UP)
    assert found.plain["program"]["thread"] == "lookup"

"""Way out: git, which starts helper programs to do its talking."""

from __future__ import annotations

import pytest

from tests.end_to_end.caught import Fenced


@pytest.mark.needs("program:git")
def test_git(fenced: Fenced) -> None:
    run = fenced.run(
        """
        import os, subprocess
        from here import AWAY, HTTP

        def ls_remote(url):
            return subprocess.run(
                ["git", "ls-remote", url], capture_output=True, text=True, timeout=60,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"})

        def test_git_protocol_away():
            assert ls_remote(f"git://{AWAY}/repo.git").returncode == 128

        def test_http_away():
            assert ls_remote(f"http://{AWAY}/repo.git").returncode == 128

        def test_name_away():
            assert ls_remote("https://git.example.com/repo.git").returncode == 128

        def test_loopback():
            done = ls_remote(f"http://127.0.0.1:{HTTP}/repo.git")
            assert "refs/heads/main" in done.stdout, done
        """
    )
    run.refused("test_git_protocol_away", "connect 198.51.100.7:9418/tcp", by=["git"])
    run.refused("test_http_away", "connect 198.51.100.7:80/tcp", by=["git", "git", "git-remote-http"])
    run.refused("test_name_away", "resolve git.example.com", by=["git", "git", "git-remote-http"], count=None)
    run.clean("test_loopback")

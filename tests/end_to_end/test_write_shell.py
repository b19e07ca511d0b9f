"""Way out: a shell's redirection, and the programs that it starts."""

from __future__ import annotations

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_shell_redirect(fenced: Fenced) -> None:
    (fenced.outside / "old").write_text("as it was\n")
    run = fenced.run(
        """
        import os, subprocess
        import pytest
        from here import OUTSIDE

        def shell(command):
            return subprocess.run(command, shell=True, capture_output=True, text=True, cwd="/")

        def test_redirect():
            done = shell(f"echo x > {OUTSIDE}/new")
            assert done.returncode == 2 and "Permission denied" in done.stderr

        def test_append():
            assert shell(f"echo x >> {OUTSIDE}/old").returncode == 2

        def test_os_system():
            assert os.system(f"echo x > {OUTSIDE}/new 2> /dev/null") != 0

        @pytest.mark.parametrize("command", ["touch new", "mkdir new", "rm -f old", "mv old new", "ln -s x new"])
        def test_program(command):
            assert shell(f"cd {OUTSIDE}; {command}").returncode == 1

        def test_in_a_pipe():
            assert shell(f"echo x | tee {OUTSIDE}/new > /dev/null").returncode == 1

        def test_inside(tmp_path):
            done = shell(
                f"cd {tmp_path} && echo x > new && echo y >> new && mkdir d && mv new d/ && cat d/new > /dev/stdout")
            assert (done.stdout, done.returncode) == ("x\\ny\\n", 0)
        """,
        policy=ONLY_HERE,
    )
    out = fenced.outside
    run.refused("test_redirect", f"write {out}/new", by=["sh"])
    run.refused("test_append", f"write {out}/old", by=["sh"])
    run.refused("test_os_system", f"write {out}/new", by=["sh"])
    for command, what, program in (
        ("touch new", f"write {out}/new", "touch"),
        ("mkdir new", f"mkdir {out}/new", "mkdir"),
        ("rm -f old", f"unlink {out}/old", "rm"),
        ("mv old new", f"rename {out}/old", "mv"),
        ("ln -s x new", f"symlink {out}/new", "ln"),
    ):
        found = run.attempts(f"test_program[{command}]")
        assert [v.what for v in found][:1] == [what], run
        # A shell execs the last command in its own place, or starts it as a child: both are right.
        assert found[0].chain[-1] == program, run
        assert found[0].argv == command.split(), run
        run.blamed(f"test_program[{command}]")
    run.refused("test_in_a_pipe", f"write {out}/new", by=["sh", "tee"])
    run.clean("test_inside")
    assert fenced.untouched(old="as it was\n")

"""Way out: sqlite3, which makes, locks, truncates and removes files in C."""

from __future__ import annotations

import sqlite3

from tests.end_to_end.caught import ONLY_HERE, Fenced


def test_sqlite3(fenced: Fenced) -> None:
    old = fenced.outside / "old.db"
    with sqlite3.connect(old) as db:
        db.execute("create table t (x)")
        db.execute("insert into t values (1)")
    db.close()
    before = old.read_bytes()
    run = fenced.run(
        """
        import sqlite3
        import pytest
        from here import OUTSIDE

        def test_new():
            with pytest.raises(sqlite3.OperationalError, match="unable to open"):
                sqlite3.connect(f"{OUTSIDE}/new.db")

        def test_old():
            # SQLite opens what it may not write for reading.
            db = sqlite3.connect(f"{OUTSIDE}/old.db")
            assert db.execute("select x from t").fetchall() == [(1,)]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute("insert into t values (2)")
            db.close()

        @pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
        def test_inside(tmp_path, mode):
            for n in range(2):
                db = sqlite3.connect(tmp_path / "new.db")
                assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
                with db:
                    db.execute("create table if not exists t (x)")
                    db.execute("insert into t values (?)", (n,))
                assert db.execute("select count(*) from t").fetchone() == (n + 1,)
                db.close()
        """,
        policy=ONLY_HERE,
    )
    run.refused("test_new", f"write {fenced.outside}/new.db", line='sqlite3.connect(f"{OUTSIDE}/new.db")', count=None)
    run.refused("test_old", f"write {fenced.outside}/old.db", count=None)
    run.clean(*(f"test_inside[{mode}]" for mode in ("delete", "truncate", "persist", "wal")))
    assert fenced.untouched("old.db")
    assert old.read_bytes() == before

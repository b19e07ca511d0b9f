"""Programs with many threads start others where rules for commands hold, and are refused those that are denied."""

from __future__ import annotations

import json
import sys

import pytest

from tests.end_to_end.command.conftest import Command, has

THREADS = """
import collections, subprocess, threading

ended = collections.Counter()

def start(word):
    for _ in range(25):
        try:
            ended[word, subprocess.run([word]).returncode] += 1
        except PermissionError as error:
            ended[word, error.strerror] += 1

threads = [threading.Thread(target=start, args=(word,)) for word in ["true", "false"] * 4]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(ended.items()))
"""
NODE = """
const {spawn} = require('node:child_process')
const {Worker, isMainThread} = require('node:worker_threads')
const said = []
const start = (word) =>
  new Promise(done => spawn(word).on('exit', done).on('error', error => done(error.code))).catch(error => error.code)
if (isMainThread) {
  const other = new Worker(process.argv[1])
  const gone = new Promise(done => other.on('exit', done))  // it may be before the others have ended
  const words = [...Array(8).fill('true'), 'false']
  Promise.all([...words.map(start), gone]).then(ends => console.log(ends.join(' ')))
} else start('true')
"""


@pytest.fixture
def rules(fence: Command) -> list[str]:
    return ["-m", "-s", fence.write("p.json", json.dumps({"command": {"deny": ["false", "git push"]}}))]


def test_many_threads(fence: Command, rules: list[str]) -> None:
    ended = fence(*rules, sys.executable, "-c", THREADS)
    denied = "Operation not permitted"
    assert (ended.status, ended.out) == (0, f"{[(('false', denied), 100), (('true', 0), 100)]}\n"), ended
    assert {line.partition(" (")[0] for line in fence.refusals(ended)} == {"[fence:exec] ✗ run false EPERM"}
    without = fence(sys.executable, "-c", THREADS)
    assert (without.status, without.out) == (0, f"{[(('false', 1), 100), (('true', 0), 100)]}\n"), without


@pytest.mark.needs("program:node")
def test_node(fence: Command, rules: list[str]) -> None:
    program = fence.write("spawn.js", NODE)
    ended = fence(*rules, "node", program)
    assert (ended.status, ended.out) == (0, "0 0 0 0 0 0 0 0 EPERM 0\n"), ended
    has([line.partition(" (")[0] for line in fence.refusals(ended)], "[fence:exec] ✗ run false EPERM")
    without = fence("-m", "node", program)
    assert (without.status, without.out, without.err) == (0, "0 0 0 0 0 0 0 0 1 0\n", ""), without

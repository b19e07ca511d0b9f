"""The page: it loads nothing, runs nothing but its own script, and says everything without it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from typing import Any

import pytest

from fence_core.events.model import Program
from fence_core.report.files import formats
from tests.unit.report.reports import report, resolve, write
from tests.unit.report.test_report_files_formats import EVIL, hostile

_MAY = {"href": r"#d\d+", "class": r"[a-z -]+", "id": r"[a-z]+(-title)?|d\d+", "name": r"as|viewport"}
"""What these attributes may hold, as far as they could do anything."""
_LOADS = {"src", "srcset", "action", "formaction", "data", "poster", "style", "background", "ping", "xlink:href"}


class Page(html.parser.HTMLParser):
    """Its tags with their attributes, its text, and what stands in `style` and `script`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: dict[str, str] = {}
        self.text = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in ("style", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            self.parts[self._in] = self.parts.get(self._in, "") + data
        else:
            self.text += data

    def of(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for each, attributes in self.tags if each == tag and name in attributes]


def page(*violations: Any) -> Page:
    return Page(formats.render("html", report(*violations), {}))


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_a_strangers_text_makes_no_tag_and_no_attribute(text: str) -> None:
    made = formats.render("html", hostile(text), {})
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", made)
    found, plain = Page(made), page(resolve(), write("/srv/x"))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags} | {"dt", "dd"}
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    assert found.parts == plain.parts
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name in _LOADS], (tag, attributes)
        for name, allowed in _MAY.items():
            value = attributes.get(name)
            assert value is None or re.fullmatch(allowed, value), (tag, attributes)


def test_the_content_policy_names_what_is_there() -> None:
    found = page(resolve())
    policy = next(each["content"] for _, each in found.tags if each.get("http-equiv") == "Content-Security-Policy")
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.parts[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in (policy or "")
    assert (policy or "").startswith("default-src 'none';")
    assert "unsafe" not in (policy or "")
    assert not re.search(r"https?:|url\(|@import", found.parts["style"] + found.parts["script"])
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(", found.parts["script"])


def test_without_its_script_it_says_everything() -> None:
    program = Program("curl", 9, chain=("pytest", "sh", "curl"), argv=("curl", "-s", "http://b.test"))
    text = page(resolve(count=3), resolve("b.test", program=program), write("/home/kim/.x")).text
    for part in (
        "1 of 180 tests reached for 3 things that the policy does not allow",
        "shop.py:3: in charge",
        "socket.getaddrinfo('api.stripe.com', 443)",
        "no rule in network.allowed_domains allows it (preset pytest)",
        '@pytest.mark.fence(allowed_domains=["api.stripe.com"])',
        "curl -s http://b.test",
        "~/.x",
        ", 3 times",
    ):
        assert part in text
    assert {"hidden": None}.items() <= next(each for tag, each in page(resolve()).tags if tag == "form").items()
    assert "All of 180 tests kept to the policy" in page().text


def test_it_says_what_is_missing() -> None:
    assert "incomplete" in Page(formats.render("html", report(resolve(), complete=False), {})).text
    assert "7 more violations are only counted" in Page(formats.render("html", report(resolve(), dropped=7), {})).text


def test_what_nothing_allows_cannot_be_chosen() -> None:
    protected = write("/home/kim/.gitconfig", verdict="protected", remedy=None)
    found = page(resolve(), protected, write("/x", verdict="denied"))
    entries = [json.loads(each) for each in found.of("section", "data-entries")]
    assert sorted(entries, key=len) == [[], [], [{"key": "network.allowed_domains", "value": "api.stripe.com"}]]


def test_its_structure() -> None:
    found = page(resolve(), write("/srv/x"))
    tags = [tag for tag, _ in found.tags]
    assert tags.count("h1") == tags.count("main") == tags.count("header") == 1
    assert all(each["scope"] in ("row", "col") for tag, each in found.tags if tag == "th")
    ids = [each["id"] for _, each in found.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert set(found.of("label", "for")) == set(found.of("input", "id"))
    assert set(found.of("section", "aria-labelledby")) <= set(ids)
    assert {each.removeprefix("#") for each in found.of("a", "href")} == set(found.of("tr", "data-id")) <= set(ids)


def test_its_size() -> None:
    small = len(formats.render("html", report(), {}))
    many = (resolve(nodeid=f"tests/test_shop.py::test[{n}]") for n in range(100))
    some = len(formats.render("html", report(*many), {}))
    assert small < 120_000
    assert (some - small) / 100 < 1500

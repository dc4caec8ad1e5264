"""The page a reviewer reads: everything in it, nothing executable, one digest per content."""

from dataclasses import replace
from html.parser import HTMLParser

import msgspec

from deploy.registry_records import EpisodeRecord, RecipeRecord
from deploy.review_packet import packet_digest, packet_html, packet_png
from tests.deploy.episodes import episode


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_holds_the_numbers_that_decide() -> None:
    text = Page(packet_html(episode())).text
    for fact in ("0.0500", "0.4500", "14 : 1", "0.0005", "decides from 26", "offsets 1010 to 1249"):
        assert fact in text
    for fact in ("recurring 1-aa", "against 3e+06", "at most 0.05: evidence of 50 decides"):
        assert fact in text
    assert "loss became nan <at> 3" in text


def test_a_name_from_outside_cannot_become_markup() -> None:
    evil = RecipeRecord("maml", False, outcome="error", message="<script>alert(1)</script>")
    html = packet_html(replace(episode(), recipes=(evil,), reason="<img src=x onerror=y>"))
    assert not {"script", "img"} & set(Page(html).tags)


def test_the_digest_survives_the_outbox_and_changes_with_any_number() -> None:
    told = episode()
    carried = msgspec.json.decode(msgspec.json.encode(told), type=EpisodeRecord)
    digest = packet_digest(packet_html(told))
    assert packet_digest(packet_html(carried)) == digest
    assert packet_digest(packet_html(replace(told, labels=told.labels + 1))) != digest


def test_the_picture_is_a_png_also_without_recipes_and_gate() -> None:
    assert packet_png(episode()).startswith(b"\x89PNG")
    assert packet_png(replace(episode(), recipes=(), gate=None)).startswith(b"\x89PNG")

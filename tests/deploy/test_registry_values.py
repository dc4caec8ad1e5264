"""Records, review tags and store addresses: what is accepted and what is refused, and why."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.registry import ReviewAnswer, ReviewRequest
from deploy.registry_records import (
    EpisodeRecord,
    ModelVersionRecord,
    RecipeRecord,
    RolloutRecord,
    TrainingRecord,
)
from deploy.review_tag import Refusal, read_review, reply
from deploy.run_facts import episode_facts, recipe_facts
from deploy.store_address import StoreAddressError, check_store_address
from tests.deploy.episodes import AT_MS, episode, version_record

REQUEST = ReviewRequest("3", "1a2b3c4d" + "0" * 56)


@pytest.mark.parametrize(
    "record",
    [
        episode(),
        TrainingRecord("t", "meta-train", AT_MS, {"lr": 0.1}, {"a": 1.0}, {"loss": ((0, 1.0),)}),
        RolloutRecord("e", "3", AT_MS, "canary", "pass", "fine", {"n": 3.0}, ((1, 5.0),)),
        version_record("v", "sha256:" + "0" * 64, episode_record=episode()),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_waits_in_an_outbox_unchanged(
    record: EpisodeRecord | TrainingRecord | RolloutRecord | ModelVersionRecord,
) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


@pytest.mark.parametrize("key", ["", "it's", "a b", "x" * 251, "new\nline"])
def test_a_key_that_cannot_be_searched_for_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key is"):
        replace(episode(), key=key)


def test_a_recipe_that_makes_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="key is"):
        replace(episode(), recipes=(RecipeRecord("it's", True),))


def test_numbers_that_are_not_finite_are_left_out_of_the_columns() -> None:
    recipe = RecipeRecord(
        "maml",
        False,
        query_loss=float("nan"),
        holdout_loss=0.5,
        curve=((0, 1.0), (1, float("inf"))),
    )
    facts = recipe_facts(recipe)
    assert facts.metrics == {"holdout_loss": 0.5, "seconds": 0.0}
    assert facts.curves == {"query_loss_by_step": ((0, 1.0),)}


def test_the_task_that_it_is_about_is_comparable() -> None:
    facts = episode_facts(episode())
    assert facts.params["task.decision"] == "recurring"
    assert facts.params["task.version"] == "1-aa"
    assert facts.metrics["task.champion.loss"] == 0.4
    assert facts.metrics["task.1-aa.e_explains"] == 80.0
    assert "task.1-aa.loss" not in facts.metrics
    assert "task.decision" not in episode_facts(replace(episode(), task=None)).params


def test_frozen_wins_is_shown_as_the_winner() -> None:
    facts = episode_facts(replace(episode(), winner="frozen", outcome="frozen wins", gate=None))
    assert facts.metrics["winner.query_loss"] == 0.45
    assert "gate.p_value" not in facts.metrics


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_tag_is_taken_for_another_answer(tag: str, status: str) -> None:
    read = read_review(REQUEST, tag, status=status)
    if isinstance(read, ReviewAnswer):
        assert tag.strip().startswith(f"{read.verdict} ") or "\t" in tag or "\n" in tag
        assert "1a2b3c4d" in tag


@given(st.text(min_size=1, max_size=80))
def test_what_was_replied_to_is_not_read_again(tag: str) -> None:
    read = read_review(REQUEST, tag, status="")
    if isinstance(read, Refusal):
        assert read_review(REQUEST, tag, status=read.status) is None
    elif read is not None:
        assert read_review(REQUEST, tag, status=reply("taken", read.tag)) is None


@pytest.mark.parametrize("tag", ["approve 1a2b3c4d ann", "  reject 1a2b3c4d bob it is\tworse  "])
def test_an_answer_is_read(tag: str) -> None:
    read = read_review(REQUEST, tag, status="refused: something else [approve 00000000 ann]")
    assert isinstance(read, ReviewAnswer)
    assert (read.version, read.packet_digest) == ("3", REQUEST.packet_digest)


@pytest.mark.parametrize(
    "tag", ["approve", "approve 1a2b3c4d", "approve 1a2b3c ann", "maybe 1a2b3c4d ann", "APPROVE"]
)
def test_half_an_answer_is_refused_with_what_was_expected(tag: str) -> None:
    read = read_review(REQUEST, tag, status="")
    assert isinstance(read, Refusal)
    assert "approve|reject <first 8" in read.status


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////tmp/a/mlflow.db",
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/prefix",
    ],
)
def test_an_address_is_accepted(address: str) -> None:
    assert check_store_address(address) == address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("file:///tmp/mlruns", "expected sqlite"),
        ("databricks://profile", "expected sqlite"),
        ("mlruns", "expected sqlite"),
        ("", "expected sqlite"),
        ("http://", "expected sqlite"),
        ("sqlite:///relative.db", "no absolute path"),
        ("sqlite://host/x.db", "no absolute path"),
        ("sqlite:////", "no absolute path"),
        ("sqlite:////tmp/../etc/x.db", "'..'"),
        ("http://host/#/models", "'#'"),
        ("http://host/?a=b", "'?'"),
        ("http://host/%2e%2e/x", "'%'"),
        ("https://ann:secret@host", "credentials"),
        ("http://169.254.169.254", "link-local"),
        ("http://[fe80::1]:5000", "link-local"),
    ],
)
def test_an_address_is_refused_with_the_reason(address: str, why: str) -> None:
    with pytest.raises(StoreAddressError) as caught:
        check_store_address(address)
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)

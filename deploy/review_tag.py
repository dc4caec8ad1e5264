"""The review a person writes into a registry tag, and the reply they read.

The tag: ``approve|reject <first 8 of the packet's digest> <name> [reason]``.

>>> from deploy.registry import ReviewRequest
>>> request = ReviewRequest("3", "1a2b3c4d" + 56 * "0")
>>> read_review(request, "approve 1a2b3c4d ann looks right", status="").by
'ann'
>>> read_review(request, "approve 00000000 ann", status="").status
'refused: the packet is 1a2b3c4d now, read it again [approve 00000000 ann]'
"""

import re
from dataclasses import dataclass

from deploy.registry import ReviewAnswer, ReviewRequest

_TAG = re.compile(r"(approve|reject)\s+([0-9a-f]{8})\s+(\S+)(?:\s+(.*))?", re.DOTALL)
_LONGEST_TAG = 2000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A tag that is no answer; ``status`` tells the reviewer why."""

    status: str


def read_review(request: ReviewRequest, tag: str, *, status: str) -> ReviewAnswer | Refusal | None:
    """Read what a reviewer wrote.

    Args:
        request: What they were asked.
        tag: What they wrote.
        status: The last reply; a tag that it replies to is not read again.

    Returns:
        The answer, a refusal to reply with, or nothing where there is nothing new.
    """
    written = tag.strip()[:_LONGEST_TAG]
    if not written or status.endswith(f"[{written}]"):
        return None
    match = _TAG.fullmatch(written)
    if match is None:
        expected = "approve|reject <first 8 of the packet's digest> <name> [reason]"
        return Refusal(reply(f"refused: expected {expected}", written))
    verdict, digest, name, reason = match.groups()
    current = request.packet_digest[:8]
    if digest != current:
        return Refusal(reply(f"refused: the packet is {current} now, read it again", written))
    return ReviewAnswer(
        version=request.version,
        verdict="approve" if verdict == "approve" else "reject",
        by=name,
        reason=(reason or "").strip(),
        packet_digest=request.packet_digest,
        tag=written,
    )


def reply(outcome: str, tag: str) -> str:
    """Return the status that tells what became of ``tag`` and marks it as read."""
    return f"{outcome} [{tag}]"

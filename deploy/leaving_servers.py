"""Model servers that are no longer wanted: they end what they have in hand, and nobody waits."""

from dataclasses import dataclass

from deploy.seldon_process import SeldonProcess

LEAVE_S = 15.0
"""Longest that a server may take over the requests in hand, seconds."""


@dataclass(frozen=True, slots=True)
class _Leaving:
    process: SeldonProcess
    until_s: float


class LeavingServers:
    """Servers on their way out; ``clear_away`` is called now and then until there are none."""

    def __init__(self) -> None:
        self._leaving: list[_Leaving] = []

    def add(self, process: SeldonProcess, now_s: float) -> None:
        """Ask a server to end."""
        process.ask_to_end()
        self._leaving.append(_Leaving(process, now_s + LEAVE_S))

    def clear_away(self, now_s: float) -> bool:
        """Kill what is left of those that ended or had their time; return whether all are gone."""
        for each in [*self._leaving]:
            if not each.process.alive or now_s >= each.until_s:
                each.process.kill()
                self._leaving.remove(each)
        return not self._leaving

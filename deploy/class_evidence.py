"""A candidate for new classes, judged on the old ones and on the new ones apart.

In the mean over all labels a gain on a new class pays for a loss on the old ones: the stable
version is wrong about every event of a class that it cannot name. So the labels of the classes that
it names give a paired test of their own for harm, and one for non-inferiority; promotion needs the
second. Both go by betting, as everything in ``deploy.sequential``, at the same margin. Promotion
also needs to be shown that the candidate names more than half of the new classes' events.

Papers: S. Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority, CRC Press 2010
(the margin); R. Berger, Technometrics 24(4), 1982 (a verdict that needs several nulls rejected
needs no correction for their number).
"""

from collections.abc import Iterable

import msgspec

from deploy.sequential import BettingTest, opening_tests

LEAST_RECALL = 0.5
"""A class is known to a model that names it more often than not."""


class ClassEvidence(msgspec.Struct, frozen=True):
    """What labels say of a candidate that names classes which the stable version lacks.

    Attributes:
        known: The classes that the stable version names.
        added: Those that the candidate names beside them.
        worse: On labels of those; null "gain >= -acceptable_harm"; rejecting it is FAIL.
        safe: On the same; null "gain <= -acceptable_harm"; PASS needs it rejected.
        named: On labels of added classes; null "recall <= LEAST_RECALL"; PASS needs it rejected.
        won: Known labels on which the candidate lost less.
        lost: Known labels on which it lost more.
        missed: Sum of its losses on labels of added classes.
    """

    known: tuple[str, ...]
    added: tuple[str, ...]
    worse: BettingTest
    safe: BettingTest
    named: BettingTest
    won: int = 0
    lost: int = 0
    missed: float = 0.0

    def observe(self, label: str, loss_stable: float, loss_candidate: float) -> "ClassEvidence":
        """Return the evidence after one more label; one of any other class says nothing.

        Args:
            label: The class.
            loss_stable: Loss of the stable version on the event, in [0, 1].
            loss_candidate: Loss of the candidate on the same event, in [0, 1].
        """
        if label in self.added:
            return msgspec.structs.replace(
                self,
                named=self.named.observe_above(1.0 - loss_candidate, 0.0),
                missed=self.missed + loss_candidate,
            )
        if label not in self.known:
            return self
        d = loss_stable - loss_candidate
        return msgspec.structs.replace(
            self,
            worse=self.worse.observe(-d),
            safe=self.safe.observe(d),
            won=self.won + (d > 0),
            lost=self.lost + (d < 0),
        )

    def harm(self, risk: float) -> str | None:
        """Return the numbers that show harm to the known classes, wrongly with ``risk``."""
        if not self.worse.rejects(risk):
            return None
        return (
            f"harm above {self.worse.margin:g} to the known classes is shown: {self._known()}, "
            f"e={self.worse.e_value():.3g}"
        )

    def missing(self, risk: float) -> str | None:
        """Return what has not been shown yet, or None; shown wrongly with ``risk`` each."""
        if not self.safe.rejects(risk):
            return (
                f"harm of {self.worse.margin:g} to the known classes is not excluded yet: "
                f"{self._known()}, e={self.safe.e_value():.3g} < 1/{risk:.3g}"
            )
        if not self.named.rejects(risk):
            return (
                f"a recall of the new classes above {LEAST_RECALL:g} is not shown yet: "
                f"{self.named.n - self.missed:g} of {self.named.n} labels named, "
                f"e={self.named.e_value():.3g} < 1/{risk:.3g}"
            )
        return None

    def numbers(self) -> dict[str, int | float]:
        """Return what is shown and recorded of it."""
        return {
            "labels_known": self.safe.n,
            "won_known": self.won,
            "lost_known": self.lost,
            "e_safe_known": self.safe.e_value(),
            "e_worse_known": self.worse.e_value(),
            "labels_new": self.named.n,
            "missed_new": self.missed,
            "e_named_new": self.named.e_value(),
        }

    def _known(self) -> str:
        return f"{self.won} better and {self.lost} worse of their {self.safe.n} labels"


def class_evidence(
    known: Iterable[str],
    added: Iterable[str],
    acceptable_harm: float,
    holdout: Iterable[tuple[str, float, float]] = (),
) -> ClassEvidence:
    """Return the evidence before the canary's first label.

    Args:
        known: The classes that the stable version names.
        added: Those that the candidate names beside them.
        acceptable_harm: How much their mean loss may rise.
        holdout: Class, loss of the stable version and of the candidate on each label of the gate's
            holdout: the candidate was neither taught nor chosen by them, so that they count.

    Raises:
        ValueError: No harm at all is acceptable, or a loss is outside [0, 1].
    """
    _, worse, safe = opening_tests(0.0, acceptable_harm)
    named = BettingTest.start(LEAST_RECALL)
    evidence = ClassEvidence(tuple(known), tuple(added), worse, safe, named)
    for label, loss_stable, loss_candidate in holdout:
        evidence = evidence.observe(label, loss_stable, loss_candidate)
    return evidence

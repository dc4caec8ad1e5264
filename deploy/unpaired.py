"""What labels say of a canary when only a router sees both versions: one answer an event.

Each event is its own request. The router sends it to the candidate with the step's known
probability ``p``, the answer says which arm gave it, and its label gives one loss in [0, 1], of
that arm alone. With a centre ``c`` that was fixed before the event,

    d = -(loss - c) / p           where the candidate answered
    d =  (loss - c) / (1 - p)     where the stable version did

has the mean ``loss_stable - loss_candidate`` whatever ``c`` is, because the arm is drawn without
looking at the losses. So the betting tests of ``deploy.sequential`` run on it unchanged but for its
range, which depends on ``p`` and ``c`` and is known beforehand. Under the null every factor has a
conditional mean of at most 1 with the probability of *its own* step, however labels of several
steps interleave: the e-process of a rollout is the product of one e-process per step, for each
stake of the mixture, and Ville's inequality holds for the product.

The centre is the loss that the router's mixture has had so far, ``(1 - p) mean_stable +
p mean_candidate``: with it the bets are those of the growth-optimal e-variable for two 0/1 samples,
``1 + lambda d = q_arm(loss) / q_mixture(loss)``, at a stake that the mixture need not estimate, and
margins other than 0 and losses between 0 and 1 cost nothing extra.

What it rests on: the arm is drawn at random, and whether and when a label comes does not depend on
it; ``deploy.sample_ratio`` looks after both. A router that takes turns in the step's proportion
does as well: over a full turn the factors' means average to at most 1, so their product is at most
1 as long as losses and centre stay as they are for that turn (``benchmarks.canaries`` measures it).

Papers: I. Waudby-Smith, L. Wu, A. Ramdas, N. Karampatziakis and P. Mineiro, "Anytime-valid
off-policy inference for contextual bandits", ACM/IMS Journal of Data Science 1(3), 2024 (bets on
inverse-probability-weighted, doubly robust differences); R. Turner, A. Ly and P. Grünwald, "Generic
E-variables for exact sequential k-sample tests that allow for optional stopping", Journal of
Statistical Planning and Inference 230, 2024 (the growth-optimal e-variable).

>>> evidence = no_unpaired_evidence(least_gain=0.0, acceptable_harm=0.05)
>>> for _ in range(20):
...     evidence = observe_one(evidence, 1.0, by_candidate=False, p=0.5)
...     evidence = observe_one(evidence, 0.0, by_candidate=True, p=0.5)
>>> evidence.n_candidate, evidence.gain, evidence.better.rejects(0.05)
(20, 1.0, True)
"""

import msgspec

from deploy.sequential import BettingTest, opening_tests


class UnpairedEvidence(msgspec.Struct, frozen=True, tag="unpaired"):
    """What the losses of single answers say so far.

    The gain of the candidate is the fall of the mean loss from the stable version to it.

    Attributes:
        better: Null "gain <= least_gain"; rejecting it is PASS.
        worse: Null "gain >= -acceptable_harm"; rejecting it is FAIL.
        safe: Null "gain <= -acceptable_harm"; rejecting it lets the candidate take a step.
        n_stable: Labels of the stable version's answers.
        n_candidate: Labels of the candidate's answers.
        loss_stable: Sum of the stable version's losses on its own answers.
        loss_candidate: Sum of the candidate's losses on its own answers.
    """

    better: BettingTest
    worse: BettingTest
    safe: BettingTest
    n_stable: int = 0
    n_candidate: int = 0
    loss_stable: float = 0.0
    loss_candidate: float = 0.0

    @property
    def n(self) -> int:
        """Labels of both arms."""
        return self.n_stable + self.n_candidate

    @property
    def mean_stable(self) -> float:
        """Mean loss of the stable version's answers; 0 before the first."""
        return self.loss_stable / self.n_stable if self.n_stable else 0.0

    @property
    def mean_candidate(self) -> float:
        """Mean loss of the candidate's answers; 0 before the first."""
        return self.loss_candidate / self.n_candidate if self.n_candidate else 0.0

    @property
    def gain(self) -> float:
        """Difference of the mean losses; 0 until both arms have a label."""
        both = self.n_stable and self.n_candidate
        return self.mean_stable - self.mean_candidate if both else 0.0

    def centre(self, p: float) -> float:
        """Return the loss to expect of a router that sends ``p`` to the candidate, in (0, 1).

        Each arm's mean starts at one label of loss 1/2.
        """
        stable = (self.loss_stable + 0.5) / (self.n_stable + 1)
        candidate = (self.loss_candidate + 0.5) / (self.n_candidate + 1)
        return (1.0 - p) * stable + p * candidate

    def numbers(self) -> dict[str, int | float]:
        """Return what is shown and recorded of it."""
        return {
            "labels": self.n,
            "labels_stable": self.n_stable,
            "labels_candidate": self.n_candidate,
            "loss_stable": self.mean_stable,
            "loss_candidate": self.mean_candidate,
            "gain": self.gain,
            "e_better": self.better.e_value(),
            "e_worse": self.worse.e_value(),
        }


def no_unpaired_evidence(least_gain: float, acceptable_harm: float) -> UnpairedEvidence:
    """Return the evidence before the first label.

    Raises:
        ValueError: A margin is outside [0, 1), or no harm at all is acceptable.
    """
    return UnpairedEvidence(*opening_tests(least_gain, acceptable_harm))


def observe_one(
    evidence: UnpairedEvidence, loss: float, *, by_candidate: bool, p: float
) -> UnpairedEvidence:
    """Return the evidence after one more label.

    Args:
        evidence: So far.
        loss: Of the answer that was given, in [0, 1].
        by_candidate: Whether the candidate gave it.
        p: Probability with which the router sent this event to the candidate, when it did.

    Raises:
        ValueError: The loss is outside [0, 1] or not finite, or ``p`` is not strictly between 0 and
            1 (where all events go to one arm nothing is compared).
    """
    if not 0.0 <= loss <= 1.0:
        raise ValueError(f"loss must lie in [0, 1], got {loss}")
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly between 0 and 1, got {p}")
    centre = evidence.centre(p)
    d = -(loss - centre) / p if by_candidate else (loss - centre) / (1.0 - p)
    lowest = -max((1.0 - centre) / p, centre / (1.0 - p))
    highest = max((1.0 - centre) / (1.0 - p), centre / p)
    return UnpairedEvidence(
        evidence.better.observe_above(d, lowest),
        evidence.worse.observe_above(-d, -highest),
        evidence.safe.observe_above(d, lowest),
        evidence.n_stable + (not by_candidate),
        evidence.n_candidate + by_candidate,
        evidence.loss_stable + (0.0 if by_candidate else loss),
        evidence.loss_candidate + (loss if by_candidate else 0.0),
    )

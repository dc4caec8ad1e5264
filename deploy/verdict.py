"""One look at a canary's evidence: what the plan and the counts say, and nothing else."""

import math
from dataclasses import dataclass
from typing import assert_never

from deploy.guards import GuardReading, guarded
from deploy.rollout_plan import Verdict
from deploy.rollout_state import Rollout
from deploy.sample_ratio import RatioCounts
from deploy.sequential import BettingTest, PairedEvidence
from deploy.unpaired import UnpairedEvidence


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its numbers.

    Attributes:
        verdict: The outcome.
        reason: One sentence with the numbers that led to it.
        harm_excluded: The data are sound and a harm beyond the tolerance is excluded, so that the
            candidate may take a step.
    """

    verdict: Verdict
    reason: str
    harm_excluded: bool = False


def judge(rollout: Rollout, guard: GuardReading | None = None) -> Judgement:
    """Judge the candidate from its plan, its evidence and its server's counters alone.

    Missing data never pass: no labels, fewer than the plan asks for, events that nobody counted, or
    a skewed share of events or labels are INCONCLUSIVE, whatever the losses say.

    Args:
        rollout: What has been seen so far.
        guard: What the candidate's server says; None where nothing was read.
    """
    evidence, held = rollout.evidence, guarded(rollout.plan, guard)
    if held is not None and held[0] is Verdict.FAIL:
        return Judgement(*held)
    unsound = "no label yet" if evidence.n == 0 else unsound_counts(rollout)
    if unsound is None and evidence.worse.rejects(_fail_risk(rollout)):
        return Judgement(Verdict.FAIL, _worse(rollout))
    harm = None if unsound is not None else class_harm_shown(rollout)
    if harm is not None:
        return Judgement(Verdict.FAIL, harm)
    if held is not None:
        return Judgement(*held)
    unsound = unsound or missing_labels(rollout)
    if unsound is not None:
        return Judgement(Verdict.INCONCLUSIVE, unsound)
    return _undecided_or_pass(rollout)


def _undecided_or_pass(rollout: Rollout) -> Judgement:
    plan, evidence = rollout.plan, rollout.evidence
    safe = evidence.safe.rejects(plan.step_risk)
    if rollout.step_labels < plan.least_labels:
        few = f"{rollout.step_labels} of {plan.least_labels} labels at this step; {_gain(rollout)}"
        return Judgement(Verdict.INCONCLUSIVE, few, safe)
    numbers = f"{_gain(rollout)}, {_bound(evidence.better, plan.risk)}"
    if evidence.better.rejects(plan.risk):
        classes = rollout.classes
        missing = None if classes is None else classes.missing(plan.step_risk)
        if missing is not None:
            return Judgement(Verdict.INCONCLUSIVE, f"candidate {numbers}; {missing}", safe)
        more = f"; a gain above {plan.least_gain:g} is shown" if plan.least_gain else ""
        return Judgement(Verdict.PASS, f"candidate {numbers}{more}", safe)
    return Judgement(Verdict.INCONCLUSIVE, f"undecided: {numbers}", safe)


def class_harm_shown(rollout: Rollout) -> str | None:
    """Return the numbers that show harm to the classes that the stable version names, or None."""
    return None if rollout.classes is None else rollout.classes.harm(_fail_risk(rollout))


def _fail_risk(rollout: Rollout) -> float:
    """Return the risk of each test for harm: two share it where old classes are judged apart."""
    return rollout.plan.fail_risk / (1 if rollout.classes is None else 2)


def missing_labels(rollout: Rollout) -> str | None:
    """Return which arm has too few labels to be compared, or None."""
    match rollout.evidence:
        case PairedEvidence():
            return _uncovered(rollout)  # every label is of both arms
        case UnpairedEvidence() as evidence:
            return _few_per_arm(rollout, evidence) or _uncovered(rollout)
        case _:
            assert_never(rollout.evidence)


def _few_per_arm(rollout: Rollout, evidence: UnpairedEvidence) -> str | None:
    least = rollout.plan.least_labels_per_arm
    for arm, labels in (
        ("candidate", evidence.n_candidate),
        ("stable version", evidence.n_stable),
    ):
        if labels < least:
            return f"{labels} of {least} labels of the {arm}'s answers"
    return None


def _uncovered(rollout: Rollout) -> str | None:
    share = rollout.plan.least_label_coverage
    labels, answers = by_arm(rollout.labelled), by_arm(rollout.assigned)
    arms = zip(("stable version", "candidate"), labels, answers, strict=True)
    for arm, n, of in reversed(list(arms)):
        if n < share * of:
            return (
                f"labels for {n} of the {arm}'s {of} answers, less than the share of {share:g} "
                "that is asked for"
            )
    return None


def by_arm(counts: RatioCounts) -> tuple[int, int]:
    """Return the counts of stable and candidate where both may answer."""
    shared = [cell for cell in counts.cells if 0 < cell.weight_pct < 100]
    candidate = sum(cell.by_candidate for cell in shared)
    return sum(cell.events for cell in shared) - candidate, candidate


def unsound_counts(rollout: Rollout) -> str | None:
    """Return why the counts of events and labels by arm cannot be trusted, or None."""
    assigned, labelled, risk = rollout.assigned, rollout.labelled, rollout.plan.skew_risk
    scored = {cell.weight_pct: cell.events for cell in assigned.cells}
    for cell in labelled.cells:
        known = scored.get(cell.weight_pct, 0)
        if cell.weight_pct > 0 and cell.events > known:
            return (
                f"{cell.events} labels for {known} counted events at {cell.weight_pct} %: "
                "the assignment of the others is unknown"
            )
    skew = assigned.skew(risk)
    if skew is not None:
        return f"skewed assignment: of the events {skew}"
    skew = labelled.skew(risk)
    return None if skew is None else f"skewed label arrival: of the labels {skew}"


def harm_bound(rollout: Rollout) -> str:
    """Return the evidence that a harm beyond the tolerance is excluded, in numbers."""
    plan = rollout.plan
    return (
        f"harm of {plan.acceptable_harm:g} excluded: {_gain(rollout)}, "
        f"{_bound(rollout.evidence.safe, plan.step_risk)}"
    )


def regret_shown(rollout: Rollout) -> str | None:
    """Return the numbers that show the old champion to be the better one, or None."""
    risk, regret = _fail_risk(rollout), rollout.regret
    if not regret.rejects(risk):
        return None
    return (
        f"the old champion {rollout.stable} is better, shown by {regret.n} labels since the "
        f"promotion, {_bound(regret, risk)}"
    )


def _gain(rollout: Rollout) -> str:
    evidence = rollout.evidence
    word = "better" if evidence.gain >= 0 else "worse"
    return (
        f"{word} by {abs(evidence.gain):.3g} after {evidence.n} labels "
        f"(loss {evidence.mean_stable:.3g} to {evidence.mean_candidate:.3g})"
    )


def _worse(rollout: Rollout) -> str:
    plan, worse, risk = rollout.plan, rollout.evidence.worse, _fail_risk(rollout)
    return (
        f"candidate {_gain(rollout)}, {_bound(worse, risk)}; "
        f"a harm above {plan.acceptable_harm:g} is shown"
    )


def _bound(test: BettingTest, risk: float) -> str:
    sign = ">=" if test.rejects(risk) else "<"
    return f"e={_short(test.log_e())} {sign} 1/{risk:.3g}"


def _short(log_e: float) -> str:
    return f"{math.exp(log_e):.3g}" if abs(log_e) < 30 else f"10^{log_e / math.log(10):.0f}"

"""T17: sorting plans on scikit-learn's digits: ``python -m benchmarks.sorting_plans``.

A plan sends 3 to 5 of the ten digits to lane B. Half of the images and 40 plans serve learning, the
other half and plans that nothing else saw serve judging: each plan's models learn from 20 or 40
noisy labelled images and are judged on every image of that half that they did not learn from. Every
contestant gets the same labels. Every start is trained for the same CPU time; those that learn to
adapt see each plan with its lanes swapped, too (joint pre-training does not: the two contradict
each other). Steps and step sizes of all of them are chosen on 6 of the 40 plans that trained
nothing (``adapters.meta_validation``). ``fine-tuned by Adam`` and ``scratch`` use the recipes' own.

Writes docs/results/sorting_plans.md and sorting_plans.json.
"""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from adapters.inner_loop import trajectory, with_weights
from adapters.joint import FINE_TUNE, SCRATCH, train_few
from adapters.joint_pretraining import JointPretraining
from adapters.maml import MAML
from adapters.meta_learner import MetaLearner
from adapters.meta_loops import Surroundings, train
from adapters.meta_plan import Plan as Training
from adapters.meta_sgd import MetaSGD
from adapters.meta_validation import ValidationEpisodes, validate
from adapters.model_file import Architecture, lineage_key
from adapters.modules import initialise
from adapters.prototypes import with_prototype_head
from adapters.recipes import MLP_PATH
from adapters.reptile import Reptile
from adapters.tasks import Batch, TaskData, TaskSampler, TaskSet
from benchmarks.machine import machine
from benchmarks.results import keep, measured, options
from pipeline.demo.images import DAYLIGHT, Half, scanned, split_images
from pipeline.demo.plans import Plan, every_plan

MLP_64 = Architecture(MLP_PATH, {"inputs": 64, "hidden": [64, 64], "outputs": 2})
META_PLANS, HELD_PLANS = 40, 6
LABELS = (20, 40)

LEARNERS: dict[str, tuple[MetaLearner, Training]] = {
    "MAML, learned step sizes": (
        MAML(5, 0.4, learn_step_sizes=True),
        Training(steps=5000, tasks=16, rate=1e-3),
    ),
    "MAML": (MAML(5, 0.4), Training(steps=5000, tasks=16, rate=1e-3)),
    "Meta-SGD (one step)": (MetaSGD(0.4), Training(steps=5000, tasks=16, rate=1e-3)),
    "Reptile": (
        Reptile(8, 0.2, batch=20),
        Training(steps=9000, tasks=4, support=20, query=20, rate=0.5),
    ),
    "joint, fine-tuned": (JointPretraining(0.2), Training(steps=5000, tasks=16, rate=1e-3)),
}


def lanes(plan: Plan, half: Half) -> NDArray[np.int64]:
    """Return 1 where the plan sends the digit to lane B."""
    return np.isin(half.digits, sorted(plan)).astype(np.int64)


def tasks_of(
    plans: list[Plan], half: Half, rng: np.random.Generator, *, swapped: bool = False
) -> TaskSampler:
    """Return every image of the half under each plan, each with noise of its own.

    With ``swapped`` there is a second task for each plan, whose lanes are exchanged.
    """
    keys = np.array([lineage_key(name) for name in half.names], np.uint64)
    return TaskSampler(
        TaskSet(
            tuple(
                TaskData(
                    f"plan-{''.join(map(str, sorted(plan)))}" + ("-swapped" if exchange else ""),
                    torch.from_numpy(scanned(half.pixels, DAYLIGHT, rng).astype(np.float32)),
                    torch.from_numpy(lanes(plan, half) ^ exchange),
                    keys,
                )
                for plan in plans
                for exchange in ((0, 1) if swapped else (0,))
            )
        )
    )


def accuracy(module: torch.nn.Module, inputs: torch.Tensor, truth: NDArray[np.int64]) -> float:
    """Return the share of right answers."""
    with torch.inference_mode():
        return float((module.eval()(inputs).argmax(1).numpy() == truth).mean())


def run(seed: int, unseen: int, budget_s: float) -> dict[str, Any]:
    """Return accuracies ``[contestant][labels] -> one per plan`` and training seconds."""
    rng, halves = np.random.default_rng([seed, 17]), split_images(seed)
    plans = [every_plan()[i] for i in rng.permutation(len(every_plan()))[: META_PLANS + unseen]]
    learned = plans[: META_PLANS - HELD_PLANS]
    plain = tasks_of(learned, halves.learning, rng)
    both = tasks_of(learned, halves.learning, rng, swapped=True)
    held = tasks_of(plans[META_PLANS - HELD_PLANS : META_PLANS], halves.learning, rng)
    episodes = ValidationEpisodes.draw(held, 20, 40, 48, seed)
    module = initialise(MLP_64, seed)
    starts, seconds, joint = {}, {}, module
    for name, (learner, training) in LEARNERS.items():
        began = time.process_time()
        plan = replace(training, seed=seed, max_seconds=budget_s)
        source, cpu = plain if learner.algorithm == "joint" else both, time.process_time
        trained = train(learner, module, "classification", source, plan, Surroundings(clock=cpu))
        starts[name] = validate(
            learner.algorithm, module, "classification", trained, episodes
        ).start
        seconds[name] = time.process_time() - began
        if learner.algorithm == "joint":
            joint = with_weights(module, trained.weights)
        print(f"seed {seed}: {name} trained, {seconds[name]:.0f} s of CPU time", flush=True)
    last = fit_to(plans[0], halves.learning, rng, seed)
    found: dict[str, dict[int, list[float]]] = {}
    for new in plans[META_PLANS:]:
        images = scanned(halves.stream.pixels, DAYLIGHT, rng).astype(np.float32)
        truth, order = lanes(new, halves.stream), rng.permutation(len(images))
        inputs = torch.from_numpy(images)
        for n in LABELS:
            own, rest = order[:n], order[max(LABELS) :]
            support = Batch(inputs[own], torch.from_numpy(truth[own]))

            def judge(name: str, answer: torch.nn.Module, n: int = n, rest: Any = rest) -> None:
                found.setdefault(name, {}).setdefault(n, []).append(
                    accuracy(answer, inputs[rest], truth[rest])  # noqa: B023 - called at once
                )

            for name, start in starts.items():
                ((_, ends),) = trajectory(
                    module,
                    "classification",
                    start.weights,
                    start.step_sizes,
                    support,
                    steps=start.steps,
                    at={start.steps},
                )
                judge(name, with_weights(module, ends))
            for name, begin, descent in (
                ("joint, fine-tuned by Adam", joint, FINE_TUNE),
                ("last model, fine-tuned by Adam", last, FINE_TUNE),
                ("scratch MLP", initialise(MLP_64, seed), SCRATCH),
            ):
                ((_, ends),) = train_few(
                    begin, support, "classification", descent=descent, at={descent.steps}
                )
                judge(name, with_weights(begin, ends))
            judge("frozen (last model)", last)
            judge("prototypes on the joint embedding", prototypes(joint, support))
            for name, classic in (
                ("logistic regression", LogisticRegression(max_iter=1000)),
                ("random forest", RandomForestClassifier(100, random_state=seed, n_jobs=1)),
            ):
                said = (
                    classic.fit(images[own], truth[own]).predict(images[rest])
                    if len(set(truth[own].tolist())) > 1
                    else np.full(len(rest), truth[own][0])
                )
                found.setdefault(name, {}).setdefault(n, []).append(
                    float((said == truth[rest]).mean())
                )
    return {"seed": seed, "accuracy": found, "training_cpu_s": seconds}


def prototypes(joint: torch.nn.Module, support: Batch) -> torch.nn.Module:
    """Return the joint model with the lanes' mean embeddings as its head.

    Where the support knows one lane only there is no second prototype: the model stays as it is.
    """
    if len(torch.bincount(support.targets).nonzero()) < 2:
        return joint
    return with_prototype_head(joint, MLP_64, support.inputs, support.targets, 2)[1]


def fit_to(plan: Plan, half: Half, rng: np.random.Generator, seed: int) -> torch.nn.Module:
    """Return a model of one plan, trained on every image of the half."""
    inputs = torch.from_numpy(scanned(half.pixels, DAYLIGHT, rng).astype(np.float32))
    begin = initialise(MLP_64, seed)
    whole = Batch(inputs, torch.from_numpy(lanes(plan, half)))
    ((_, ends),) = train_few(begin, whole, "classification", descent=SCRATCH, at={SCRATCH.steps})
    return with_weights(begin, ends)


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    results = found["results"]
    names = list(results[0]["accuracy"])
    best = "MAML, learned step sizes"

    def values(name: str, n: int) -> NDArray[np.float64]:
        return np.array([r["accuracy"][name][n] for r in results])  # (seeds, plans)

    rng = np.random.default_rng(0)

    def interval(differences: NDArray[np.float64]) -> str:
        flat = differences.ravel()
        means = rng.choice(flat, (2000, len(flat))).mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return f"{100 * flat.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    lines = [
        "# T17: sorting plans",
        "",
        f"{measured(found)}.",
        "",
        f"{len(results)} seeds of images, plans, noise and weights; {found['unseen']} unseen plans "
        f"each; the same labels for all. {found['budget_s']:g} s of CPU time to train each start, "
        "on one thread. Accuracy in percent; the differences are points of "
        f"*{best}* above the row, paired by seed and plan, with bootstrap intervals over those "
        "pairs (below 0 the row wins). Targets: 90.0 / 95.5 with 20 / 40 labels.",
        "",
        "| contestant | 20 labels | 40 labels | difference at 20 | at 40 | CPU s to train |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(names, key=lambda name: -values(name, 20).mean()):
        a, b = (values(name, n) for n in LABELS)
        took = [r["training_cpu_s"].get(name) for r in results]
        cost = f"{np.mean(took):.0f}" if took[0] is not None else "-"
        gaps = [
            "-" if name == best else interval(values(best, n) - values(name, n)) for n in LABELS
        ]
        lines.append(
            f"| {name} | {100 * a.mean():.1f} | {100 * b.mean():.1f} | {gaps[0]} | {gaps[1]} |"
            f" {cost} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every seed, print, and keep the numbers."""
    arguments = options("benchmarks.sorting_plans")
    arguments.add_argument("--seeds", type=int, default=10, help="0 .. SEEDS - 1")
    arguments.add_argument("--unseen", type=int, default=12, help="unseen plans per seed")
    arguments.add_argument("--budget-s", type=float, default=30.0, help="CPU time to train a start")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    before, results = os.getloadavg()[0], []
    for seed in range(chosen.seeds):
        results.append(run(seed, chosen.unseen, chosen.budget_s))
        found = {
            "command": f"python -m benchmarks.sorting_plans --seeds {seed + 1}"
            f" --unseen {chosen.unseen} --budget-s {chosen.budget_s:g}",
            "machine": machine("torch", "scikit-learn", "numpy"),
            "load": [before, os.getloadavg()[0]],
            "unseen": chosen.unseen,
            "budget_s": chosen.budget_s,
            "results": results,
        }
        written = page(found)
        print(written, flush=True)
        if not chosen.print_only:  # after every seed: a run that is stopped leaves what it has
            keep("sorting_plans", written, found)


if __name__ == "__main__":
    main()

"""T1 and T2: new characters from one drawing each: ``python -m benchmarks.omniglot``.

Omniglot's background set: 30 alphabets. The last 8 judge and are never trained on, the three before
them are meta-validation, the others meta-training, each character also turned by 90, 180 and 270
degrees as a class of its own. Episodes draw 5 or 20 characters across the 8 alphabets, one drawing
of each as support; every query is answered by itself (non-transductive). Settings were fixed
beforehand or chosen on the validation alphabets.

Writes docs/results/omniglot.md and omniglot.json. Needs METADRIFT_DATA. One seed of training; the
same network serves 5-way and 20-way but for MAML, whose head has 5 outputs.
"""

import io
import json
import lzma
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from adapters.evaluation_verdict import bootstrap_interval, mean_interval
from adapters.image_tasks import with_rotations
from adapters.inner_loop import trajectory, with_weights
from adapters.maml import MAML
from adapters.meta_loops import MetaTrained, Surroundings, train
from adapters.meta_plan import Plan
from adapters.model_file import Architecture
from adapters.modules import initialise
from adapters.n_way_evaluation import Answers, n_way_accuracies
from adapters.prototype_training import PrototypePlan, distance_logits, train_prototypes
from adapters.prototypes import class_prototypes, prototype_head
from adapters.task_splits import refuse_common
from adapters.tasks import Batch, NWayTasks, TaskData, TaskSet
from benchmarks.machine import machine
from benchmarks.results import keep, measured, options

ROOT = Path(__file__).parent.parent
SIDE, DRAWERS = 28, 20
JUDGING, VALIDATING = 8, 3
FIRST = "prototypes, trained episodically"
TARGETS = {5: (97.0, 99.0), 20: (94.0, 97.0)}
SHARES = {"prototypes": 0.55, "joint": 0.2, "maml": 0.25}
"""Of the CPU budget."""
CONV = Architecture("adapters.networks:Conv4", {"outputs": 5, "filters": 64})
SMALL = Architecture("adapters.networks:Conv4", {"outputs": 5, "filters": 32})
PROTOTYPES = PrototypePlan(
    steps=6000, ways=30, shots=1, queries=5, rate=2e-3, validate_every=250, seed=0
)
MAML_PLAN = Plan(steps=4000, tasks=4, support=5, query=25, rate=1e-3)
MAML_STEPS = 3
JOINT_ROWS, JOINT_STEPS, JOINT_RATE = 128, 6000, 1e-3
TUNED_RATES, TUNED_STEPS = (0.003, 0.01, 0.03, 0.1), (1, 3, 10)
SEEDS, EPISODES, QUERIES = 10, 60, 5


def characters() -> tuple[TaskSet, list[int]]:
    """Return one class per character, and the alphabet of each."""
    folder = Path(os.environ.get("METADRIFT_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "omniglot" / "omniglot28_background.npz.xz"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: set METADRIFT_DATA to the folder of the data sets")
    with lzma.open(path) as packed:
        held = np.load(io.BytesIO(packed.read()), allow_pickle=False)
    images = torch.from_numpy(held["x"].astype(np.float32) / 255).reshape(len(held["x"]), -1)
    tasks, alphabets = [], []
    for character in np.unique(held["y"]).tolist():
        at = np.flatnonzero(held["y"] == character)
        alphabets.append(int(held["alphabet"][at[0]]))
        nothing = torch.zeros(len(at), dtype=torch.int64)
        name = f"{alphabets[-1]}/{character}"
        tasks.append(TaskData(name, images[at], nothing, at.astype(np.uint64)))
    return TaskSet(tuple(tasks)), alphabets


def split(classes: TaskSet, alphabets: list[int]) -> tuple[TaskSet, TaskSet, TaskSet]:
    """Return the characters of meta-training, meta-validation and meta-test, by alphabet."""
    order = sorted(set(alphabets))
    judging, validating = set(order[-JUDGING:]), set(order[-JUDGING - VALIDATING : -JUDGING])

    def those(chosen: set[int]) -> TaskSet:
        named = zip(classes.tasks, alphabets, strict=True)
        return TaskSet(tuple(task for task, alphabet in named if alphabet in chosen))

    return those(set(order) - judging - validating), those(validating), those(judging)


# ---------------------------------------------------------------- what is trained


def joint_network(classes: TaskSet, cpu_s: float) -> tuple[nn.Module, int]:
    """Return a classifier of all training classes, trained for a time, and its steps."""
    kwargs = {**CONV.kwargs, "outputs": len(classes)}
    module = initialise(Architecture(CONV.path, kwargs), 0)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.cat([task.inputs for task in classes.tasks])
    sizes = torch.tensor([len(task) for task in classes.tasks])
    targets = torch.arange(len(classes)).repeat_interleave(sizes)
    optimiser = torch.optim.Adam(module.parameters(), lr=JOINT_RATE)
    generator, began_s, done = torch.Generator().manual_seed(0), time.process_time(), 0
    while done < JOINT_STEPS:
        fraction = max(done / JOINT_STEPS, (time.process_time() - began_s) / cpu_s)
        if fraction >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = JOINT_RATE * (0.5 + 0.5 * np.cos(np.pi * fraction))
        at = torch.randint(len(inputs), (JOINT_ROWS,), generator=generator)
        loss = nn.functional.cross_entropy(module(inputs[at]), targets[at])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        done += 1
    return module.eval(), done


def maml_start(source: NWayTasks, cpu_s: float) -> MetaTrained:
    """Return MAML's start for 5 classes, trained for a time."""
    plan = replace(MAML_PLAN, max_seconds=cpu_s)
    learner = MAML(MAML_STEPS, 0.4, learn_step_sizes=True)
    where = Surroundings(clock=time.process_time)
    return train(learner, initialise(SMALL, 0), "classification", source, plan, where)


# ---------------------------------------------------------------- who answers


@torch.inference_mode()
def embedded(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the embedding in eval mode: each row by itself."""
    found: Tensor = module.embed(inputs)  # type: ignore[operator]
    return found


def by_prototypes(embed: Callable[[Tensor], Tensor]) -> Answers:
    """Answer by the nearest mean of the support, in an embedding."""

    def answer(support: Batch, query: Tensor) -> Tensor:
        ways = int(support.targets.max()) + 1
        return distance_logits(embed(support.inputs), support.targets, embed(query), ways).argmax(1)

    return answer


def by_fine_tuning(module: nn.Module, rate: float, steps: int) -> Answers:
    """Answer by the network after gradient steps on the support, its head from prototypes."""

    def answer(support: Batch, query: Tensor) -> Tensor:
        ways = int(support.targets.max()) + 1
        moved = initialise(Architecture(CONV.path, {**CONV.kwargs, "outputs": ways}), 0).eval()
        state = {n: v for n, v in module.state_dict().items() if not n.startswith("head.")}
        means = class_prototypes(embedded(module, support.inputs), support.targets, ways)
        weight, bias = prototype_head(means)
        moved.load_state_dict({**state, "head.weight": weight, "head.bias": bias})
        optimiser = torch.optim.SGD(moved.parameters(), lr=rate)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(moved(support.inputs), support.targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            said: Tensor = moved(query).argmax(1)
        return said

    return answer


def by_maml(start: MetaTrained) -> Answers:
    """Answer by the start after its inner steps on the support."""
    module = initialise(SMALL, 0)

    def answer(support: Batch, query: Tensor) -> Tensor:
        path = trajectory(
            *(module, "classification", start.weights, start.step_sizes, support),
            steps=MAML_STEPS,
            at={MAML_STEPS},
        )
        with torch.inference_mode():
            said: Tensor = with_weights(module, path[-1][1]).eval()(query).argmax(1)
        return said

    return answer


def by_pixels(make: Callable[[], Any]) -> Answers:
    """Answer by a model of scikit-learn fitted to the support's pixels."""

    def answer(support: Batch, query: Tensor) -> Tensor:
        fitted = make().fit(support.inputs.numpy(), support.targets.numpy())
        return torch.from_numpy(fitted.predict(query.numpy()).astype(np.int64))

    return answer


SCRATCH: dict[str, Callable[[], Any]] = {
    "logistic regression on the support's pixels": lambda: LogisticRegression(max_iter=200),
    "MLP on the support's pixels": lambda: MLPClassifier(
        (64,), solver="lbfgs", max_iter=100, random_state=0
    ),
    "random forest on the support's pixels": lambda: RandomForestClassifier(100, random_state=0),
}


def tuned(module: nn.Module, source: NWayTasks) -> tuple[float, int]:
    """Return the rate and the steps of fine-tuning that did best on the validation alphabets."""
    tries = {(r, s): by_fine_tuning(module, r, s) for r in TUNED_RATES for s in TUNED_STEPS}
    named = {f"{r} {s}": answer for (r, s), answer in tries.items()}
    found = n_way_accuracies(source, named, shots=1, queries=QUERIES, episodes=20, seed=999)
    return max(tries, key=lambda pair: found[f"{pair[0]} {pair[1]}"].mean())


# ---------------------------------------------------------------- the run


def run(ways: tuple[int, ...], minutes: float) -> dict[str, Any]:
    """Train within the budget, then judge; return everything measured."""
    training, validation, judging = split(*characters())
    turned, cpu_s, facts = with_rotations(training, SIDE), 60 * minutes, {}
    refuse_common({"meta-train": turned, "meta-validation": validation, "meta-test": judging})
    check = NWayTasks(validation, 20)

    def validate(module: nn.Module) -> float:
        answers = {"": by_prototypes(lambda rows: embedded(module, rows))}
        found = n_way_accuracies(check, answers, shots=1, queries=QUERIES, episodes=40, seed=998)
        return float(found[""].mean())

    began_s = time.process_time()
    plan = replace(PROTOTYPES, max_seconds=SHARES["prototypes"] * cpu_s)
    learned = train_prototypes(initialise(CONV, 0), NWayTasks(turned, plan.ways), plan, validate)
    facts["prototypes"] = {
        "steps": learned.steps,
        "validated": learned.validated,
        "cpu_s": time.process_time() - began_s,
    }
    print(json.dumps(facts), flush=True)
    began_s = time.process_time()
    joint, steps = joint_network(turned, SHARES["joint"] * cpu_s)
    facts["joint"] = {"steps": steps, "cpu_s": time.process_time() - began_s}
    start = None
    if 5 in ways:
        began_s = time.process_time()
        start = maml_start(NWayTasks(turned, 5), SHARES["maml"] * cpu_s)
        facts["maml"] = {"steps": start.steps, "cpu_s": time.process_time() - began_s}
    print(json.dumps(facts), flush=True)
    results = {}
    for n in ways:
        rate, best = tuned(joint, NWayTasks(validation, n))
        contestants: dict[str, Answers] = {
            FIRST: by_prototypes(lambda rows: embedded(learned.module, rows)),
            "prototypes on the joint embedding": by_prototypes(lambda r: embedded(joint, r)),
            f"joint, fine-tuned ({best} steps of {rate:g})": by_fine_tuning(joint, rate, best),
            "prototypes of pixels": by_prototypes(lambda rows: rows),
            **{name: by_pixels(make) for name, make in SCRATCH.items()},
        }
        if start is not None and n == 5:
            contestants[f"MAML, {MAML_STEPS} steps, 32 filters"] = by_maml(start)
        source = NWayTasks(judging, n)
        parts = [
            n_way_accuracies(
                source, contestants, shots=1, queries=QUERIES, episodes=EPISODES, seed=seed
            )
            for seed in range(SEEDS)
        ]
        results[str(n)] = {
            name: np.concatenate([part[name] for part in parts]).round(5).tolist()
            for name in contestants
        }
    return {
        "training": facts,
        "classes": [len(training), len(turned), len(validation), len(judging)],
        "digests": [part.digest() for part in (training, validation, judging)],
        "accuracies": results,
    }


def rows_of(accuracies: Mapping[str, list[float]]) -> list[str]:
    """Return Markdown rows, best first, with paired differences to the first named."""
    each: dict[str, NDArray[np.float64]] = {n: np.array(v) for n, v in accuracies.items()}
    seeds = np.repeat(np.arange(SEEDS), EPISODES).astype(np.intp)
    rows = []
    for name in sorted(each, key=lambda n: -each[n].mean()):
        mean, low, high = (100 * x for x in mean_interval(each[name]))
        gap = "-"
        if name != FIRST:
            better = each[FIRST] - each[name]
            a, b = (100 * x for x in bootstrap_interval(better, seeds, 0))
            gap = f"{100 * better.mean():+.1f} [{a:+.1f}, {b:+.1f}]"
        rows.append(f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] | {gap} |")
    return rows


def page(found: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    result, facts = found["result"], found["result"]["training"]
    best = max((s, -n) for n, s in facts["prototypes"]["validated"])
    lines = [
        "# T1 and T2: new characters from one drawing each",
        "",
        f"{measured(found)}. One training seed (0), one thread, no GPU.",
        "",
        f"{result['classes'][0]} characters to train on ({result['classes'][1]} with their turned"
        f" copies), {result['classes'][2]} to validate on, {result['classes'][3]} of the last"
        f" {JUDGING} alphabets to judge on. {SEEDS} episode seeds of {EPISODES} episodes, classes"
        f" drawn across alphabets, 1 drawing of each as support, {QUERIES} queries each, answered"
        " one by one. CPU budget of the training: "
        + ", ".join(
            f"{name} {row['cpu_s'] / 60:.0f} min ({row['steps']} steps)"
            for name, row in facts.items()
        )
        + f". The episodic network is that of step {-best[1]}, the best of"
        f" {len(facts['prototypes']['validated'])} looks at the validation alphabets (20-way"
        f" {100 * best[0]:.1f} %).",
        "",
        "Accuracy in percent with a 95 % interval over episodes; differences are points of the"
        f" first contestant, *{FIRST}*, above the row, paired by episode, with bootstrap intervals"
        " over seeds and their episodes.",
    ]
    for n, accuracies in result["accuracies"].items():
        reach, remarkable = TARGETS[int(n)]
        got = 100 * float(np.mean(accuracies[FIRST]))
        verdict = "reached" if got >= reach else f"**missed by {reach - got:.1f} points**"
        lines += [
            "",
            f"## {n}-way 1-shot (target {reach:.0f}, {verdict}; remarkable {remarkable:.0f})",
            "",
            "| contestant | accuracy | difference |",
            "|---|---|---|",
            *rows_of(accuracies),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, print, and keep the numbers."""
    arguments = options("benchmarks.omniglot")
    arguments.add_argument("--ways", type=int, nargs="+", choices=sorted(TARGETS), default=[5, 20])
    arguments.add_argument(
        "--budget-minutes", type=float, default=60.0, help="CPU time of all training together"
    )
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    result = run(tuple(chosen.ways), chosen.budget_minutes)
    found = {
        "command": f"python -m benchmarks.omniglot --ways {' '.join(map(str, chosen.ways))}"
        f" --budget-minutes {chosen.budget_minutes:g}",
        "machine": machine("torch", "scikit-learn", "numpy"),
        "load": [before, os.getloadavg()[0]],
        "result": result,
    }
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("omniglot", written, found)


if __name__ == "__main__":
    main()

"""T14: one meta-step against loops over tasks: ``python -m benchmarks.meta_step``.

The rivals are written the way the libraries do it: learn2learn clones the module, takes
``autograd.grad`` on its parameters and assigns the new ones, one task after another; Reptile there
is a deep copy and an SGD optimiser per task. TorchOpt's differentiable ``MetaSGD`` (plain SGD
there) is measured itself where it is installed (``pip install torchopt``; no dependency of ours).
All take the same batch and end with one outer step, all contestants take turns in the same process,
and the MLPs' meta-gradients are compared with the loop's before anything is timed.

Writes docs/results/meta_step.md and meta_step.json.
"""

import copy
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from adapters.inner_loop import TaskLoss, weights_of
from adapters.maml import MAML
from adapters.meta_learner import MetaLearner
from adapters.meta_state import MetaState
from adapters.model_file import TaskType
from adapters.modules import MLP
from adapters.networks import Conv4
from adapters.reptile import Reptile
from adapters.tasks import Batch, EpisodeBatch
from benchmarks.machine import machine
from benchmarks.results import keep, measured, options

TORCHOPT = importlib.util.find_spec("torchopt") is not None
Step = Callable[[], None]


def module_of(size: str) -> tuple[nn.Module, TaskType, int]:
    """Return a module, its task type and the width of its inputs."""
    torch.manual_seed(0)
    if size.startswith("conv4"):
        return Conv4(5, filters=int(size.partition("-")[2])), "classification", 784
    widths = [int(width) for width in size.split("-")]
    regression = widths[-1] == 1
    return (
        MLP(widths[0], widths[1:-1], widths[-1]),
        "regression" if regression else "classification",
        widths[0],
    )


def episodes(tasks: int, support: int, query: int, width: int, outputs: int) -> EpisodeBatch:
    """Return random episodes."""
    generator, keys = torch.Generator().manual_seed(1), np.zeros(0, np.uint64)

    def draw(n: int) -> Batch:
        inputs = torch.randn(tasks, n, width, generator=generator)
        if outputs == 1:
            return Batch(inputs, torch.randn(tasks, n, generator=generator))
        return Batch(inputs, torch.randint(outputs, (tasks, n), generator=generator))

    return EpisodeBatch(draw(support), draw(query), keys, keys)


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of one task."""
    if targets.is_floating_point():
        return mse_loss(outputs[:, 0], targets)
    return cross_entropy(outputs, targets)


def ours(learner: MetaLearner, module: nn.Module, task_type: TaskType, batch: EpisodeBatch) -> Step:
    """Return our meta-step."""
    generator = torch.Generator().manual_seed(0)
    state = MetaState(learner.start(weights_of(module), generator), learner.outer, generator)
    loss = TaskLoss.of(module, task_type)

    def step() -> None:
        _, gradients = learner.gradients(loss, state.parameters, batch, generator)
        state.move(gradients, 1e-6)

    return step


def learn2learn_maml(module: nn.Module, batch: EpisodeBatch, steps: int, size: float) -> Step:
    """Return a meta-step as ``learn2learn.algorithms.MAML`` takes it: clone, adapt, backward."""
    module = copy.deepcopy(module).train()
    weights = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    buffers = {n: b.clone() for n, b in module.named_buffers()}
    adam = torch.optim.Adam(weights.values(), lr=1e-6)

    def step() -> None:
        adam.zero_grad()
        tasks = len(batch.support.targets)
        for t in range(tasks):
            fast = {name: weight.clone() for name, weight in weights.items()}
            for _ in range(steps):
                outputs = functional_call(module, {**fast, **buffers}, (batch.support.inputs[t],))
                value = loss_of(outputs, batch.support.targets[t])
                grads = torch.autograd.grad(value, list(fast.values()), create_graph=True)
                moved = zip(fast.items(), grads, strict=True)
                fast = {name: weight - size * grad for (name, weight), grad in moved}
            outputs = functional_call(module, {**fast, **buffers}, (batch.query.inputs[t],))
            torch.autograd.backward(loss_of(outputs, batch.query.targets[t]) / tasks)
        adam.step()

    return step


def deepcopy_reptile(module: nn.Module, batch: EpisodeBatch, steps: int, size: float) -> Step:
    """Return a Reptile step with a deep copy and an SGD optimiser per task."""
    module = copy.deepcopy(module).train()
    inputs = torch.cat([batch.support.inputs, batch.query.inputs], 1)
    targets = torch.cat([batch.support.targets, batch.query.targets], 1)

    def step() -> None:
        sums = [torch.zeros_like(p) for p in module.parameters()]
        for t in range(len(targets)):
            own = copy.deepcopy(module)
            sgd = torch.optim.SGD(own.parameters(), lr=size)
            for _ in range(steps):
                sgd.zero_grad()
                torch.autograd.backward(loss_of(own(inputs[t]), targets[t]))
                sgd.step()
            for so_far, mine, start in zip(
                sums, own.parameters(), module.parameters(), strict=True
            ):
                so_far.add_(mine.detach() - start.detach())
        with torch.no_grad():
            for parameter, so_far in zip(module.parameters(), sums, strict=True):
                parameter.add_(so_far, alpha=1e-6 / len(targets))

    return step


def torchopt_maml(module: nn.Module, batch: EpisodeBatch, steps: int, size: float) -> Step:
    """Return a meta-step by TorchOpt's differentiable optimiser, as its MAML example takes it."""
    import torchopt

    module = copy.deepcopy(module).train()
    adam = torch.optim.Adam(module.parameters(), lr=1e-6)
    inner = torchopt.MetaSGD(module, lr=size)

    def step() -> None:
        adam.zero_grad()
        tasks, total = len(batch.support.targets), []
        start = torchopt.extract_state_dict(module, by="reference")
        optimiser = torchopt.extract_state_dict(inner, by="reference")
        for t in range(tasks):
            for _ in range(steps):
                inner.step(loss_of(module(batch.support.inputs[t]), batch.support.targets[t]))
            total.append(loss_of(module(batch.query.inputs[t]), batch.query.targets[t]))
            torchopt.recover_state_dict(module, start)
            torchopt.recover_state_dict(inner, optimiser)
        torch.autograd.backward(torch.stack(total).mean())
        adam.step()

    return step


def same_gradients(module: nn.Module, task_type: TaskType, batch: EpisodeBatch, k: int) -> float:
    """Return the largest difference of our MAML gradient from the loop's, by its largest entry.

    Without batch norm: ours takes the support's statistics for the query, the loops the query's.
    """
    learner = MAML(k, 0.1)
    parameters = learner.start(weights_of(module), torch.Generator())
    _, mine = learner.gradients(
        TaskLoss.of(module, task_type), parameters, batch, torch.Generator()
    )
    weights = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    total = torch.zeros(())
    for t in range(len(batch.support.targets)):
        fast = dict(weights)
        for _ in range(k):
            value = loss_of(
                functional_call(module, fast, (batch.support.inputs[t],)), batch.support.targets[t]
            )
            grads = torch.autograd.grad(value, list(fast.values()), create_graph=True)
            fast = {n: w - 0.1 * g for (n, w), g in zip(fast.items(), grads, strict=True)}
        outputs = functional_call(module, fast, (batch.query.inputs[t],))
        total = total + loss_of(outputs, batch.query.targets[t]) / len(batch.support.targets)
    theirs = torch.autograd.grad(total, list(weights.values()))
    most = max(g.abs().max().item() for g in theirs)
    return max((a - b).abs().max().item() for a, b in zip(mine, theirs, strict=True)) / most


def timed(contestants: dict[str, Step], rounds: int, longest_s: float) -> dict[str, float]:
    """Return each contestant's median milliseconds of process CPU time; rounds alternate."""
    for step in contestants.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in contestants}
    began = time.monotonic()
    for done in range(rounds):
        for name, step in contestants.items():
            start = time.process_time()
            step()
            found[name].append(1000 * (time.process_time() - start))
        if done >= 2 and time.monotonic() - began > longest_s:
            break
    return {name: statistics.median(times) for name, times in found.items()}


def measure(size: str, tasks: int, rounds: int, longest_s: float) -> dict[str, Any]:
    """Return the row of one size."""
    module, task_type, width = module_of(size)
    conv = size.startswith("conv4")
    support, query, k, reptile_k = (5, 15, 5, 8) if conv else (20, 40, 5, 8)
    outputs = 5 if conv else int(size.rsplit("-", maxsplit=1)[-1])
    batch = episodes(tasks, support, query, width, outputs)
    reptile_batch = episodes(tasks, support // 2, support - support // 2, width, outputs)
    difference = None if conv else same_gradients(module, task_type, batch, k)
    if difference is not None and difference > 1e-3:
        raise RuntimeError(f"{size}: our gradient differs from the loop's by {difference:.1e}")
    maml: dict[str, Step] = {
        "ours": ours(MAML(k, 0.1), module, task_type, batch),
        "learn2learn's way": learn2learn_maml(module, batch, k, 0.1),
    }
    if TORCHOPT:
        maml["TorchOpt"] = torchopt_maml(module, batch, k, 0.1)
    reptile: dict[str, Step] = {
        "ours": ours(Reptile(reptile_k, 0.1, 1000), module, task_type, reptile_batch),
        "deep copies": deepcopy_reptile(module, reptile_batch, reptile_k, 0.1),
    }
    row = {
        "size": size,
        "tasks": tasks,
        "support": support,
        "query": query,
        "inner_steps": {"maml": k, "reptile": reptile_k},
        "gradient_difference": difference,
        "maml_ms": timed(maml, rounds, longest_s),
        "reptile_ms": timed(reptile, rounds, longest_s),
    }
    print(json.dumps(row), flush=True)
    return row


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = found["rows"]
    columns = ["ours", "learn2learn's way", *(["TorchOpt"] if found["torchopt"] else [])]
    lines = [
        "# T14: one meta-step against loops over tasks",
        "",
        f"{measured(found)}.",
        "",
        "Milliseconds of process CPU time of a whole meta-step on one thread (median; all "
        "contestants take turns); the ratio is the best rival by ours, below 1 we lose. MAML: "
        "second order, 5 inner steps, 20 support + 40 query (Conv4: 5 + 15), then Adam. Reptile: "
        "8 SGD steps on the support. Gradients of the MLPs were compared first: largest "
        f"difference {max(r['gradient_difference'] or 0 for r in rows):.0e} of the largest entry. "
        "For Conv4 ours normalises the query with the support's statistics, in one pass over both; "
        "the loops with the query's own, as those libraries do. "
        + (
            f"TorchOpt {found['torchopt']}."
            if found["torchopt"]
            else "TorchOpt was not installed (`pip install torchopt`), so it is not in the table."
        ),
        "",
        "Targets on streaming-size models: MAML 4x, Reptile 10x, never slower at any size.",
        "",
        "| model | tasks | " + " | ".join(f"MAML {c}" for c in columns) + " | ratio | "
        "Reptile ours | deep copies | ratio |",
        "|---" * (6 + len(columns)) + "|",
    ]
    for row in rows:
        maml, reptile = row["maml_ms"], row["reptile_ms"]
        best = min(maml[c] for c in columns[1:]) / maml["ours"]
        cells = [
            row["size"],
            str(row["tasks"]),
            *(f"{maml[c]:.1f}" for c in columns),
            f"{best:.1f}",
            f"{reptile['ours']:.1f}",
            f"{reptile['deep copies']:.1f}",
            f"{reptile['deep copies'] / reptile['ours']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the grid, print, and keep the numbers."""
    arguments = options("benchmarks.meta_step", __doc__)
    arguments.add_argument("--rounds", type=int, default=15, help="per size and algorithm")
    arguments.add_argument("--longest-s", type=float, default=15.0, help="per size and algorithm")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    grid = [
        *(("1-40-40-1", tasks) for tasks in (4, 16, 64)),
        *(("8-64-64-2", tasks) for tasks in (4, 16, 64)),
        *(("64-64-64-2", tasks) for tasks in (4, 16)),
        *(("128-256-256-10", tasks) for tasks in (4, 16)),
        *(("conv4-32", tasks) for tasks in (4,)),
        *(("conv4-64", tasks) for tasks in (4,)),
    ]
    rows = [measure(size, tasks, chosen.rounds, chosen.longest_s) for size, tasks in grid]
    found = {
        "command": f"python -m benchmarks.meta_step --rounds {chosen.rounds}"
        f" --longest-s {chosen.longest_s:g}",
        "machine": machine("torch"),
        "load": [before, os.getloadavg()[0]],
        "torchopt": version("torchopt") if TORCHOPT else None,
        "rows": rows,
    }
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("meta_step", written, found)


if __name__ == "__main__":
    main()

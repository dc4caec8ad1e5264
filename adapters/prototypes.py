"""Prototype-initialised heads: a model learns to name a class that it never knew.

The prototype c_k of a class is the mean embedding of its support. The distance classifier
``softmax(-|f(x) - c_k|^2)`` of prototypical networks is a linear head, weight ``2 c_k`` and bias
``-|c_k|^2``, because ``|f(x)|^2`` is common to all classes (J. Snell, K. Swersky, R. Zemel,
Prototypical Networks for Few-shot Learning, NeurIPS 2017, section 2.4). As the start of gradient
steps it serves any number of classes (Proto-MAML: E. Triantafillou et al., Meta-Dataset, ICLR 2020,
section 3).

Beside units that were trained, that head would compete on another scale, and ``|f(x)|^2`` would no
longer cancel. A new unit n is therefore placed relative to the trained ones. With trained logits
z_k, prototype logits p_k, and bars for means over the known classes:

    z_n(x) = zbar(x) + tau (p_n(x) - pbar(x))

which is linear in f(x), leaves the trained units and so every decision between known classes as
they were, and equals Snell's head where the trained units are prototypes themselves. ``tau`` is
the least-squares scale from centred prototype logits to centred trained logits on the support.
"""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from adapters.model_file import Architecture
from adapters.modules import MLP

_MLP_PATH = f"{MLP.__module__}:{MLP.__qualname__}"
_GROWN_PATH = f"{__name__}:GrownHead"


class GrowthError(Exception):
    """A head cannot be built from these examples; says why."""


class GrownHead(nn.Module):
    """A module with another number of outputs: its linear ``head`` replaced by a wider one.

    Args:
        path: ``package.module:Class`` of the module; it has ``embed(x)`` and a linear ``head``.
        kwargs: What to call it with.
        outputs: Number of classes.
    """

    def __init__(self, path: str, kwargs: dict[str, object], outputs: int) -> None:
        super().__init__()
        self.inner = Architecture(path, kwargs).build()
        inner_head = linear_head(self.inner)
        self.inner.head = nn.Linear(inner_head.in_features, outputs)

    @property
    def head(self) -> nn.Linear:
        """The wider head."""
        return cast(nn.Linear, self.inner.head)

    def embed(self, x: Tensor) -> Tensor:
        """Return the module's embedding, ``(n, e)``."""
        return cast(Tensor, self.inner.embed(x))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits


def linear_head(module: nn.Module) -> nn.Linear:
    """Return the module's ``head``.

    Raises:
        GrowthError: It has no ``embed(x)``, or its ``head`` is not linear.
    """
    head = getattr(module, "head", None)
    if not callable(getattr(module, "embed", None)) or not isinstance(head, nn.Linear):
        raise GrowthError(
            f"{type(module).__name__} cannot take another class: it needs embed(x) and an nn.Linear"
            " named head"
        )
    return head


def embedded(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the embedding ``(n, e)`` of ``(n, d)`` inputs in eval mode; ``module`` stays as it is.

    Raises:
        GrowthError: The module has no embedding of that shape.
    """
    linear_head(module)
    seen = copy.deepcopy(module).eval()
    with torch.no_grad():
        found = cast(Tensor, seen.embed(inputs))  # type: ignore[operator]
    if found.dim() != 2:
        raise GrowthError(f"embed answers {tuple(found.shape)}; a head needs (n, e)")
    return found


def class_prototypes(embedding: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return the mean embedding of each class, ``(classes, e)``; a class without rows gets NaN.

    Args:
        embedding: ``(n, e)``.
        targets: ``(n,)`` class indices.
        classes: How many classes there are.
    """
    member = torch.nn.functional.one_hot(targets, classes).to(embedding.dtype)
    return (member.T @ embedding) / member.sum(0).unsqueeze(1)


def prototype_head(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight ``(C, e)`` and bias ``(C,)`` of the distance classifier (Snell et al. 2017).

    >>> weight, bias = prototype_head(torch.tensor([[1.0, 2.0]]))
    >>> weight.tolist(), bias.tolist()
    ([[2.0, 4.0]], [-5.0])
    """
    return 2 * prototypes, -prototypes.square().sum(1)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Rows of a linear head: weight ``(C, e)`` and bias ``(C,)``."""

    weight: Tensor
    bias: Tensor


def new_units(known: Units, embedding: Tensor, targets: Tensor, outputs: int) -> Units:
    """Return the units of the classes from ``len(known.bias)`` to ``outputs - 1``.

    Args:
        known: The trained units.
        embedding: ``(n, e)`` of the support.
        targets: ``(n,)`` class indices; known classes come first.
        outputs: Number of classes, new ones included.

    Raises:
        GrowthError: A new class has no example, or no known class has one.
    """
    first = len(known.bias)
    prototypes = class_prototypes(embedding, targets, outputs)
    seen = torch.bincount(targets, minlength=outputs) > 0
    missing = [k for k in range(first, outputs) if not seen[k]]
    here = torch.nonzero(seen[:first]).flatten()
    if missing or not len(here):
        which = f"class number {missing[0]}" if missing else "any known class"
        raise GrowthError(f"the support holds no example of {which}")
    weight, bias = prototype_head(prototypes)
    trained = Units(known.weight[here], known.bias[here])
    theirs = Units(weight[here], bias[here])
    tau = _scale(trained, theirs, embedding, prototypes[targets])
    return Units(
        trained.weight.mean(0) + tau * (weight[first:] - theirs.weight.mean(0)),
        trained.bias.mean(0) + tau * (bias[first:] - theirs.bias.mean(0)),
    )


def _scale(trained: Units, prototypes: Units, embedding: Tensor, own: Tensor) -> Tensor:
    """Return the scale from prototype logits to trained logits.

    Where the two disagree, or one known class alone has examples, it is that of equal spherical
    Gaussians: one over twice the variance of an embedding's coordinate within its class.
    """
    z, p = (
        logits - logits.mean(1, keepdim=True)
        for logits in (embedding @ units.weight.T + units.bias for units in (trained, prototypes))
    )
    agreement, spread = (z * p).sum(), p.square().sum()
    if agreement > 0 and spread > 0:
        return agreement / spread
    return _gaussian_scale(embedding, own)


def _gaussian_scale(embedding: Tensor, own: Tensor) -> Tensor:
    variance = (embedding - own).square().mean()
    return 1 / (2 * variance) if variance > 0 else torch.ones(())


def grown(
    module: nn.Module, architecture: Architecture, inputs: Tensor, targets: Tensor, outputs: int
) -> tuple[Architecture, nn.Module]:
    """Return architecture and module with units for more classes; the old units stay as they are.

    Args:
        module: Fitted; it is copied. It has ``embed(x)`` and a linear ``head``.
        architecture: Of ``module``.
        inputs: ``(n, d)`` encoded support.
        targets: ``(n,)`` class indices; the module's own classes come first.
        outputs: Number of classes, new ones included.

    Raises:
        GrowthError: The module cannot grow, or the support lacks a new or every known class.
    """
    head = linear_head(module)
    old = head_units(head)
    new = new_units(old, embedded(module, inputs), targets, outputs)
    return _with_head(
        module, architecture, torch.cat([old.weight, new.weight]), torch.cat([old.bias, new.bias])
    )


def with_prototype_head(
    module: nn.Module, architecture: Architecture, inputs: Tensor, targets: Tensor, outputs: int
) -> tuple[Architecture, nn.Module]:
    """Return architecture and module whose whole head is Snell's, for any number of classes.

    The arguments are those of ``grown``; the units the module was trained with are given up. The
    distances are scaled by the variance within classes, so that the logits do not depend on the
    embedding's units.

    Raises:
        GrowthError: The module has no embedding, or a class has no example.
    """
    missing = sorted(set(range(outputs)) - set(targets.tolist()))
    if missing:
        raise GrowthError(f"the support holds no example of class number {missing[0]}")
    embedding = embedded(module, inputs)
    found = class_prototypes(embedding, targets, outputs)
    weight, bias = prototype_head(found)
    tau = _gaussian_scale(embedding, found[targets])
    return _with_head(module, architecture, tau * weight, tau * bias)


def head_name(architecture: Architecture) -> str:
    """Return what the head of a module that can grow is called among its parameters."""
    return "inner.head" if architecture.path == _GROWN_PATH else "head"


def head_units(head: nn.Linear) -> Units:
    """Return the head's units; without a bias it is zero."""
    weight = head.weight.detach()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()
    return Units(weight, bias)


def _with_head(
    module: nn.Module, architecture: Architecture, weight: Tensor, bias: Tensor
) -> tuple[Architecture, nn.Module]:
    outputs, kwargs = len(bias), dict(architecture.kwargs)
    if architecture.path in (_MLP_PATH, _GROWN_PATH):
        wider, prefix = Architecture(architecture.path, {**kwargs, "outputs": outputs}), ""
    else:
        wider = Architecture(
            _GROWN_PATH, {"path": architecture.path, "kwargs": kwargs, "outputs": outputs}
        )
        prefix = "inner."
    made = wider.build()
    state = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    at = head_name(wider)
    state |= {f"{at}.weight": weight, f"{at}.bias": bias}
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        raise GrowthError(f"{architecture.path} cannot take another class: {error}") from error
    return wider, made.eval()

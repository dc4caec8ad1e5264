"""Nine numbers an event, from one forward pass and reference rows, without a label.

``uncertainty`` 1 - max softmax; ``energy`` -logsumexp (Liu et al. 2020); ``class_distance`` least
class-wise Mahalanobis distance in the penultimate layer (Lee et al. 2018); ``input_distance``
Mahalanobis distance of the encoded input; ``input_spread`` mean squared z-score of the input;
``component_1`` ... the first four principal components of the penultimate layer. All but the
components grow as a row becomes stranger. Regression (one output) has no confidence columns.
"""

import itertools
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.reference_gaussian import Matrix, Precision, fit_precision, principal_directions
from detectors.signals import SignalKind
from detectors.snapshot_format import pack_floats, seal, unpack_floats, unseal

REFERENCE_CAP = 1000
BLOCK = 64
FOLDS = 8
_COMPONENTS = 4
_KIND = "label_free_reference"
_VERSION = "1"

Rows = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """One label-free number of an event.

    Attributes:
        name: Shown in signals.
        kind: CONFIDENCE or FEATURES: the signal it raises.
        tail: Whether large values mean strange, so that the tail statistic may use it.
    """

    name: str
    kind: SignalKind
    tail: bool


class _State(msgspec.Struct, frozen=True):
    shapes: dict[str, list[int]]
    arrays: dict[str, bytes]
    scalars: dict[str, float]


_decoder = msgspec.msgpack.Decoder(_State)


@dataclass(frozen=True, slots=True, eq=False)
class LabelFreeReference:
    """What the columns of later rows are measured against. Made by `fit`; never changes.

    Attributes:
        outputs_width: Logits, or 1 for regression.
        embedding_mean: ``(e,)``.
        embedding_map: ``(e, rank + classes + components)``, all products with a centred embedding.
        class_offsets: ``m' P m`` per class mean ``(classes,)``.
        components: Principal components used, at most 4.
        embedding_precision: Shared within-class precision.
        input_mean: ``(d,)``.
        input_precision: Precision of the input.
        input_scale: ``1 / (d variance)`` per input column ``(d,)``.
    """

    outputs_width: int
    embedding_mean: Matrix
    embedding_map: Matrix
    class_offsets: Matrix
    components: int
    embedding_precision: Precision
    input_mean: Matrix
    input_precision: Precision
    input_scale: Matrix

    @classmethod
    def fit(
        cls, outputs: Rows, embedding: Rows, inputs: Rows, classes: NDArray[np.int64] | None
    ) -> "LabelFreeReference":
        """Fit on reference rows of the promoted task, at most the newest 1,000.

        Args:
            outputs: Logits ``(n, C)``, or ``(n, 1)`` for regression.
            embedding: Penultimate layer ``(n, e)``.
            inputs: Encoded inputs ``(n, d)``.
            classes: Class index of each row (predicted ones will do) ``(n,)``; None: one class.

        Raises:
            DetectorError: no rows, unequal lengths or non-finite values.
        """
        n = len(outputs)
        _check_rows(n, outputs, embedding, inputs)
        if n == 0:
            raise DetectorError("reference rows", n, "give at least one row, better 60 or more")
        if classes is not None and len(classes) != n:
            raise DetectorError("classes", len(classes), f"give one index for each of the {n} rows")
        hidden = np.asarray(embedding[-REFERENCE_CAP:], dtype=np.float64)
        encoded = np.asarray(inputs[-REFERENCE_CAP:], dtype=np.float64)
        if not (np.isfinite(hidden).all() and np.isfinite(encoded).all()):
            raise DetectorError("reference rows", "non-finite", "leave such rows out")
        groups = np.zeros(len(hidden), np.int64) if classes is None else classes[-REFERENCE_CAP:]
        hidden_mean, input_mean = hidden.mean(axis=0), encoded.mean(axis=0)
        hidden, encoded = hidden - hidden_mean, encoded - input_mean
        names, member = np.unique(groups, return_inverse=True)
        counts = np.bincount(member)[:, None]
        sums = np.zeros((len(names), hidden.shape[1]))
        np.add.at(sums, member, hidden)
        precision = fit_precision(hidden - (sums / counts)[member])
        # One row's weight of the mean of all: a class of a single row is no class mean.
        means = sums / (counts + 1.0)
        shifted = precision.times(means)
        components, _ = principal_directions(hidden, _COMPONENTS)
        variance = np.square(encoded).mean(axis=0)
        pooled = max(float(variance.mean()), 1e-12)
        # A column that is constant here (a rare category) must not explode at its first change.
        variance = (len(encoded) * variance + 8.0 * pooled) / (len(encoded) + 8.0)
        return cls(
            outputs_width=outputs.shape[1],
            embedding_mean=hidden_mean,
            embedding_map=np.hstack([precision.factor, shifted.T, components]),
            class_offsets=np.einsum("cw,cw->c", means, shifted),
            components=components.shape[1],
            embedding_precision=precision,
            input_mean=input_mean,
            input_precision=fit_precision(encoded),
            input_scale=1.0 / (variance * encoded.shape[1]),
        )

    @property
    def signal_columns(self) -> tuple[Column, ...]:
        """The columns of `columns`, in order."""
        confidence = ("uncertainty", "energy") if self.outputs_width > 1 else ()
        distances = ("class_distance", "input_distance")
        rest = ("input_spread", *(f"component_{i + 1}" for i in range(self.components)))
        return (
            *(Column(name, SignalKind.CONFIDENCE, tail=True) for name in confidence),
            *(Column(name, SignalKind.FEATURES, tail=True) for name in distances),
            *(Column(name, SignalKind.FEATURES, tail=False) for name in rest),
        )

    def columns(self, outputs: Rows, embedding: Rows, inputs: Rows) -> NDArray[np.float32]:
        """The columns ``(n, K)`` of rows; a row's values do not depend on its batch.

        Args:
            outputs: ``(n, C)``, or ``(n, 1)`` for regression.
            embedding: ``(n, e)``.
            inputs: ``(n, d)``.

        Raises:
            DetectorError: unequal lengths or other widths than in `fit`.
        """
        n = len(outputs)
        _check_rows(n, outputs, embedding, inputs)
        for name, rows, width in (
            ("outputs", outputs, self.outputs_width),
            ("embedding", embedding, len(self.embedding_mean)),
            ("inputs", inputs, len(self.input_mean)),
        ):
            if rows.shape[1] != width:
                raise DetectorError(f"{name} width", rows.shape[1], f"fitted with {width}")
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [_confidence(np.asarray(outputs, np.float64))] if self.outputs_width > 1 else []
            hidden = _blocks(embedding) - self.embedding_mean
            encoded = _blocks(inputs) - self.input_mean
            # Products in blocks of a fixed size: BLAS rounds by the shape of the whole product.
            products = hidden @ self.embedding_map
            rank = self.embedding_precision.factor.shape[1]
            classes = len(self.class_offsets)
            length = self.embedding_precision.length(hidden, products[..., :rank])
            to_class = self.class_offsets - 2.0 * products[..., rank : rank + classes]
            factored = encoded @ self.input_precision.factor
            features = [
                length + to_class.min(axis=-1),
                self.input_precision.length(encoded, factored),
                (np.square(encoded) * self.input_scale).sum(axis=-1),
                *np.moveaxis(products[..., rank + classes :], -1, 0),
            ]
            parts.append(np.stack([f.reshape(-1)[:n] for f in features], axis=1))
            return np.hstack(parts).astype(np.float32)

    def cross_fitted(
        self, outputs: Rows, embedding: Rows, inputs: Rows, classes: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """The columns of the rows it was fitted on, as if each were new ``(n, K)``.

        Rows lie too close to a mean and covariance fitted on themselves: with 60 rows every later
        row would look strange. So the distances of each of 8 consecutive parts are measured against
        a reference fitted on the other parts.

        Raises:
            DetectorError: fewer than 16 rows, or as in `fit`.
        """
        n = len(outputs)
        if n < 2 * FOLDS:
            raise DetectorError("reference rows", n, f"give at least {2 * FOLDS}")
        matrix = self.columns(outputs, embedding, inputs)
        distances = [i for i, c in enumerate(self.signal_columns) if c.name.endswith("distance")]
        edges = np.linspace(0, n, FOLDS + 1).astype(int)
        for start, stop in itertools.pairwise(edges.tolist()):
            kept = np.r_[0:start, stop:n]
            part = LabelFreeReference.fit(
                outputs[kept],
                embedding[kept],
                inputs[kept],
                None if classes is None else classes[kept],
            )
            held = part.columns(outputs[start:stop], embedding[start:stop], inputs[start:stop])
            matrix[start:stop, distances] = held[:, distances]
        return matrix

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole reference."""
        arrays = {
            "embedding_mean": self.embedding_mean,
            "embedding_map": self.embedding_map,
            "class_offsets": self.class_offsets,
            "embedding_factor": self.embedding_precision.factor,
            "input_mean": self.input_mean,
            "input_factor": self.input_precision.factor,
            "input_scale": self.input_scale,
        }
        state = _State(
            shapes={name: list(array.shape) for name, array in arrays.items()},
            arrays={name: pack_floats(array) for name, array in arrays.items()},
            scalars={
                "outputs_width": float(self.outputs_width),
                "components": float(self.components),
                "embedding_sign": self.embedding_precision.sign,
                "embedding_weight": self.embedding_precision.weight,
                "input_sign": self.input_precision.sign,
                "input_weight": self.input_precision.weight,
            },
        )
        return seal(_KIND, _VERSION, msgspec.structs.asdict(state))

    @classmethod
    def restore(cls, packed: bytes) -> "LabelFreeReference":
        """The reference that `snapshot` packed.

        Raises:
            DetectorSnapshotError: the bytes are damaged or of another version.
        """
        try:
            state = _decoder.decode(unseal(packed, _KIND, _VERSION))
            a = {
                name: unpack_floats(d, tuple(state.shapes[name]))
                for name, d in state.arrays.items()
            }
            s = state.scalars
            return cls(
                outputs_width=int(s["outputs_width"]),
                embedding_mean=a["embedding_mean"],
                embedding_map=a["embedding_map"],
                class_offsets=a["class_offsets"],
                components=int(s["components"]),
                embedding_precision=Precision(
                    a["embedding_factor"], s["embedding_sign"], s["embedding_weight"]
                ),
                input_mean=a["input_mean"],
                input_precision=Precision(a["input_factor"], s["input_sign"], s["input_weight"]),
                input_scale=a["input_scale"],
            )
        except (msgspec.MsgspecError, KeyError) as error:
            raise DetectorSnapshotError(f"snapshot of {_KIND}: {error}") from error


def _check_rows(n: int, outputs: Rows, embedding: Rows, inputs: Rows) -> None:
    for name, rows in (("outputs", outputs), ("embedding", embedding), ("inputs", inputs)):
        if rows.ndim != 2 or len(rows) != n or rows.shape[1] == 0:
            raise DetectorError(f"{name} shape", rows.shape, f"give {n} rows of one width")


def _confidence(logits: Matrix) -> Matrix:
    # 1 - max softmax without the subtraction, which would leave 0 for every sure row.
    best = logits.argmax(axis=1)[:, None]
    top = np.take_along_axis(logits, best, axis=1)
    odds = np.exp(logits - top)
    np.put_along_axis(odds, best, 0.0, axis=1)
    others = odds.sum(axis=1)
    return np.stack([others / (1.0 + others), -(top[:, 0] + np.log1p(others))], axis=1)


def _blocks(rows: Rows) -> Matrix:
    n, width = rows.shape
    padded = np.zeros((-(-n // BLOCK) * BLOCK, width))
    padded[:n] = rows
    return padded.reshape(-1, BLOCK, width)

"""Features: what a model reads, how raw rows are checked, and how they become numbers.

A ``FeatureSchema`` belongs to a model version. ``parse_many`` turns received objects into raw
``Rows``, refusing what does not fit; ``Preprocessor`` (imputation, standardisation, one-hot) turns
raw rows into the float32 matrix that the module sees. Raw rows are what waits and what is
buffered: the encoder may change with the next model version, the rows do not.

Needs numpy only, so that it also runs in a model server's environment.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["number", "category", "bool", "tensor"]
Numbers: TypeAlias = NDArray[np.float64]

MAX_CATEGORIES = 256
"""One-hot slots of a category feature, the ``other`` slot not counted."""
LIMIT = 1e6
"""Encoded numbers are clipped to +-LIMIT, so that no outlier overflows float32."""

_CAREFUL = 8  # spans this short are parsed row by row once they failed as a whole
_LONGEST_INT = 64  # bits; longer ones are no category, and slow to print
_NULL = type(None)
_NUMBERS: frozenset[type] = frozenset({int, float, np.float64})
_BOOLS: frozenset[type] = frozenset({bool})
_LISTS: frozenset[type] = frozenset({list, tuple})


class FeatureError(ValueError):
    """A row's feature is missing or not of its kind; the row is refused, the stream goes on.

    Attributes:
        field: Name of the feature.
        value: What came, shortened; safe to log.
        expected: What the schema wants there.
        fix: What to do about it.
    """

    def __init__(self, field: str, value: str, expected: str, fix: str) -> None:
        super().__init__(field, value, expected, fix)
        self.field, self.value, self.expected, self.fix = field, value, expected, fix

    def __str__(self) -> str:
        return f"feature {self.field!r} is {self.value}: expected {self.expected}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Feature:
    """One named input.

    Attributes:
        name: Key in the ``features`` object.
        kind: ``number`` (finite), ``category`` (string), ``bool`` or ``tensor`` (flat list).
        shape: Shape of a tensor; ``()`` for the other kinds.
        nullable: Whether it may be missing or null (then it is imputed).
    """

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    nullable: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a feature's name is empty; give every feature a name")
        if self.kind not in get_args(Kind):
            raise ValueError(f"feature {self.name!r}: kind is {self.kind!r}, use {get_args(Kind)}")
        if self.kind != "tensor" and self.shape:
            raise ValueError(
                f"feature {self.name!r}: a {self.kind} has no shape, drop {self.shape}"
            )
        if self.kind == "tensor" and (not self.shape or min(self.shape) < 1):
            raise ValueError(
                f"feature {self.name!r}: shape is {self.shape}, give a tensor sizes >= 1"
            )

    @property
    def width(self) -> int:
        """Columns it takes in ``Rows.numbers``: 0 for a category."""
        return 0 if self.kind == "category" else math.prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """``n`` raw rows, exactly as received (before encoding). Treat the array as read-only.

    Attributes:
        numbers: ``(n, width)`` float64; NaN is null; a bool is 0 or 1.
        categories: ``n`` tuples, one value per category feature; ``()`` when there is none.
    """

    numbers: Numbers
    categories: tuple[tuple[str | None, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.numbers.ndim != 2 or self.numbers.dtype != np.float64:
            raise ValueError(
                f"numbers must be (n, width) float64, got {self.numbers.shape} {self.numbers.dtype}"
            )
        if self.categories and len(self.categories) != len(self.numbers):
            raise ValueError(
                f"{len(self.categories)} category rows, {len(self.numbers)} number rows"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> "Rows":
        """Return the rows at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.intp)
        picked = tuple(self.categories[i] for i in at.tolist()) if self.categories else ()
        return Rows(self.numbers[at], picked)

    def slice(self, start: int, stop: int) -> "Rows":
        """Return rows ``start .. stop - 1`` (a view of the numbers)."""
        return Rows(self.numbers[start:stop], self.categories[start:stop])

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """Return the rows of all ``parts``, one after the other; ValueError on none."""
        if not parts:
            raise ValueError("cannot concatenate no rows: their width is unknown")
        if len(parts) == 1:
            return parts[0]
        categories = tuple(chain.from_iterable(part.categories for part in parts))
        return Rows(np.concatenate([part.numbers for part in parts]), categories)

    def equal_row(self, i: int, other: "Rows", j: int) -> bool:
        """Whether row ``i`` equals row ``j`` of ``other``; null equals null."""
        if self.categories and self.categories[i] != other.categories[j]:
            return False
        mine, theirs = self.numbers[i], other.numbers[j]
        if mine.tobytes() == theirs.tobytes():
            return True
        return bool(((mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all())


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """Outcome of ``FeatureSchema.parse_many``.

    Attributes:
        rows: The accepted rows.
        kept: Position in the input of each accepted row, ascending.
        errors: Why each other position was refused.
        extra: Names that are no feature of the schema -> times seen (they are ignored).
    """

    rows: Rows
    kept: list[int]
    errors: dict[int, FeatureError]
    extra: dict[str, int]


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """The ordered features of a model version; raises ValueError when empty or ambiguous."""

    features: tuple[Feature, ...]
    width: int = field(init=False, repr=False, compare=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    categories: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _known: frozenset[str] = field(init=False, repr=False, compare=False)
    _plain: Callable[[Mapping[str, object]], object] | None = field(
        init=False, repr=False, compare=False
    )
    _nullable: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a feature schema needs at least one feature")
        names = tuple(feature.name for feature in self.features)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"feature names occur twice: {twice}; names must be unique")
        nullable = any(feature.nullable for feature in self.features)
        plain = not nullable and all(feature.kind == "number" for feature in self.features)
        derived = {
            "width": sum(feature.width for feature in self.features),
            "names": names,
            "categories": tuple(f.name for f in self.features if f.kind == "category"),
            "_known": frozenset(names),
            "_plain": itemgetter(*names) if plain else None,
            "_nullable": nullable,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def parse(self, item: Mapping[str, object]) -> Rows:
        """Return one object as one raw row; raises FeatureError for the first bad feature."""
        numbers: list[float] = []
        categories: list[str | None] = []
        for feature in self.features:
            value = _parse_value(feature, item.get(feature.name), feature.name in item)
            if feature.kind == "category":
                categories.append(cast("str | None", value))
            else:
                numbers.extend(cast("list[float]", value))
        row = np.array(numbers, dtype=np.float64).reshape(1, self.width)
        return Rows(row, (tuple(categories),) if self.categories else ())

    def parse_many(self, items: Sequence[Mapping[str, object]]) -> Parsed:
        """Return the rows of ``items`` that fit, and why the others do not.

        Equal to calling ``parse`` on each, at a fraction of the cost: a span is checked as a
        whole, and halved down to single rows only where it does not pass.
        """
        parts: list[Rows] = []
        kept: list[int] = []
        errors: dict[int, FeatureError] = {}
        extra: Counter[str] = Counter()
        todo = [(0, len(items))]
        while todo:
            start, stop = todo.pop()
            span = items[start:stop]
            rows = self._parse_span(span)
            if rows is not None:
                parts.append(rows)
                kept.extend(range(start, stop))
                self._count_extra(span, extra, complete=not self._nullable)
            elif stop - start > _CAREFUL:
                middle = (start + stop) // 2
                todo += [(middle, stop), (start, middle)]
            else:
                self._count_extra(span, extra, complete=False)
                for position, item in enumerate(span, start):
                    try:
                        parts.append(self.parse(item))
                        kept.append(position)
                    except FeatureError as error:
                        errors[position] = error
        nothing = Rows(np.empty((0, self.width)))
        return Parsed(Rows.concat(parts) if parts else nothing, kept, errors, dict(extra))

    def _count_extra(
        self, items: Sequence[Mapping[str, object]], extra: Counter[str], *, complete: bool
    ) -> None:
        count = len(self.names)
        if complete:  # every feature is there, so lengths tell
            if set(map(len, items)) <= {count}:
                return
            odd = [item for item in items if len(item) != count]
        else:
            odd = [item for item in items if not item.keys() <= self._known]
        for item in odd:
            extra.update(item.keys() - self._known)

    def _parse_span(self, items: Sequence[Mapping[str, object]]) -> Rows | None:
        """Return all rows at once, or None if any of them needs a closer look."""
        try:
            if self._plain is not None:
                return _parse_plain(self._plain, items, self.width)
            return self._parse_columns(items)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None  # the row-by-row path finds out which row, and why

    def _parse_columns(self, items: Sequence[Mapping[str, object]]) -> Rows | None:
        numbers = np.empty((len(items), self.width))
        categories: list[Sequence[str | None]] = []
        at = 0
        for feature in self.features:
            name = feature.name
            values = [item.get(name) for item in items]
            if feature.kind == "category":
                column = _category_column(feature, values)
                if column is None:
                    return None
                categories.append(column)
                continue
            block = _number_block(feature, values)
            if block is None:
                return None
            numbers[:, at : at + feature.width] = block
            at += feature.width
        return Rows(numbers, tuple(zip(*categories, strict=True)) if categories else ())

    def to_json(self) -> dict[str, object]:
        """Return the schema as JSON values."""
        return {
            "features": [
                {"name": f.name, "kind": f.kind, "shape": list(f.shape), "nullable": f.nullable}
                for f in self.features
            ]
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> "FeatureSchema":
        """Return the schema that ``to_json`` wrote; ValueError names what is wrong."""
        features = value.get("features")
        if not isinstance(features, list):
            raise ValueError(
                f"schema: 'features' is {_shown(features)}, expected a list of objects"
            )
        return FeatureSchema(tuple(_feature_from_json(entry) for entry in features))

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the canonical JSON form."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _feature_from_json(entry: object) -> Feature:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(f"schema: a feature is {_shown(entry)}, expected an object with a 'name'")
    shape, nullable = entry.get("shape", []), entry.get("nullable", False)
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise ValueError(f"feature {entry['name']!r}: 'shape' is {shape!r}, expected integers")
    if not isinstance(nullable, bool):
        raise ValueError(
            f"feature {entry['name']!r}: 'nullable' is {nullable!r}, use true or false"
        )
    return Feature(entry["name"], cast(Kind, entry.get("kind")), tuple(shape), nullable)


def _parse_plain(
    getter: Callable[[Mapping[str, object]], object],
    items: Sequence[Mapping[str, object]],
    width: int,
) -> Rows | None:
    """Return rows of required numbers only: the hot path."""
    picked = map(getter, items)
    flat = list(
        picked if width == 1 else chain.from_iterable(cast("Iterable[tuple[object, ...]]", picked))
    )
    if not _NUMBERS.issuperset(map(type, flat)):  # numpy would read "1" and True as numbers
        return None
    numbers = np.array(flat, dtype=np.float64).reshape(len(items), width)
    return Rows(numbers) if np.isfinite(numbers).all() else None


def _number_block(feature: Feature, values: list[object]) -> Numbers | None:
    """Return one feature of all rows, ``(n, width)``, or None where a value needs a closer look."""
    types = set(map(type, values))
    nulls = values.count(None) if feature.nullable and _NULL in types else 0
    if nulls:
        types.discard(_NULL)
    if feature.kind == "tensor":
        size = feature.width
        blank = [math.nan] * size
        lists = cast(
            "list[list[object]]", [blank if v is None else v for v in values] if nulls else values
        )
        if not types <= _LISTS or not set(map(len, lists)) <= {size}:
            return None
        values = list(chain.from_iterable(lists))
        types, nulls = set(map(type, values)), nulls * size
    if not types <= (_BOOLS if feature.kind == "bool" else _NUMBERS):
        return None
    block = np.array(values, dtype=np.float64).reshape(-1, feature.width)
    return block if np.count_nonzero(~np.isfinite(block)) == nulls else None


def _category_column(feature: Feature, values: list[object]) -> Sequence[str | None] | None:
    types = set(map(type, values))
    if feature.nullable:
        types.discard(_NULL)
    if types <= {str}:
        return cast("list[str | None]", values)
    if not types <= {str, int}:
        return None
    ints = cast("list[int]", [value for value in values if type(value) is int])
    if max(value.bit_length() for value in ints) > _LONGEST_INT:
        return None
    return [None if value is None else str(value) for value in values]


def _parse_value(feature: Feature, value: object, present: bool) -> list[float] | str | None:
    """Return the columns of one value, or the canonical string of a category."""
    if value is None and feature.nullable:
        return None if feature.kind == "category" else [math.nan] * feature.width
    shown = _shown(value) if present else "missing"
    match feature.kind:
        case "number":
            number = _finite(value)
            if number is not None:
                return [number]
            raise FeatureError(feature.name, shown, "a finite number", "send a JSON number")
        case "bool":
            if isinstance(value, bool):
                return [float(value)]
            raise FeatureError(feature.name, shown, "a bool", "send true or false")
        case "category":
            if isinstance(value, str):
                return value
            if type(value) is int and value.bit_length() <= _LONGEST_INT:
                return str(value)
            raise FeatureError(feature.name, shown, "a string", "send a JSON string")
        case "tensor":
            return _parse_tensor(feature, value, shown)


def _parse_tensor(feature: Feature, value: object, shown: str) -> list[float]:
    size = feature.width
    expected = f"a flat list of {size} finite numbers"
    fix = f"send the values of shape {feature.shape} in row-major order"
    if not isinstance(value, list | tuple) or len(value) != size:
        raise FeatureError(feature.name, shown, expected, fix)
    numbers = []
    for position, entry in enumerate(value):
        number = _finite(entry)
        if number is None:
            raise FeatureError(
                feature.name, f"{_shown(entry)} at position {position}", expected, fix
            )
        numbers.append(number)
    return numbers


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Return a short text of any JSON value; never slow, whatever the size."""
    match value:
        case None:
            shown = "null"
        case bool():
            shown = "true" if value else "false"
        case int() if value.bit_length() > _LONGEST_INT:
            shown = f"an integer of {value.bit_length()} bits"
        case str() if len(value) > 40:
            shown = f"{value[:40]!r}..."
        case int() | float() | str():
            shown = repr(value)
        case list() | tuple():
            shown = f"a list of {len(value)}"
        case dict():
            shown = f"an object of {len(value)}"
        case _:
            shown = f"a {type(value).__name__}"
    return shown


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Encoder and normaliser of a model version, fitted on its training or support rows only.

    Encoded columns: those of ``Rows.numbers`` in schema order, then one block per category
    feature (its kept values, then ``other``). A null category is all zeros; other nulls take
    ``fill``. A tensor has one centre and one scale, so that its picture stays a picture.

    Attributes:
        schema: What the rows look like.
        fill: Imputed value per number, bool or tensor feature, in raw units.
        center: Subtracted, per such feature.
        scale: Divided by, per such feature, > 0.
        values: Kept values per category feature, sorted.
    """

    schema: FeatureSchema
    fill: tuple[float, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    values: tuple[tuple[str, ...], ...]
    d: int = field(init=False, repr=False, compare=False)
    _fill: Numbers = field(init=False, repr=False, compare=False)
    _center: Numbers = field(init=False, repr=False, compare=False)
    _scale: Numbers = field(init=False, repr=False, compare=False)
    _slots: tuple[dict[str, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        widths = [f.width for f in self.schema.features if f.kind != "category"]
        for name in ("fill", "center", "scale"):
            column = getattr(self, name)
            if len(column) != len(widths) or not all(map(math.isfinite, column)):
                raise ValueError(f"preprocessor: {name} must hold {len(widths)} finite numbers")
            spread = np.repeat(np.array(column, dtype=np.float64), widths)
            object.__setattr__(self, f"_{name}", spread)
        if any(scale <= 0 for scale in self.scale):
            raise ValueError("preprocessor: every scale must be > 0")
        if len(self.values) != len(self.schema.categories):
            raise ValueError(f"preprocessor: values for {len(self.schema.categories)} categories")
        slots = tuple({value: i for i, value in enumerate(kept)} for kept in self.values)
        object.__setattr__(self, "_slots", slots)
        object.__setattr__(self, "d", self.schema.width + sum(len(s) + 1 for s in slots))

    @staticmethod
    def fit(schema: FeatureSchema, rows: Rows) -> "Preprocessor":
        """Return the preprocessor fitted on ``rows`` (at least one, else ValueError)."""
        if not len(rows):
            raise ValueError("cannot fit a preprocessor on no rows; give at least one")
        fitted, at = [], 0
        for feature in schema.features:
            if feature.kind != "category":
                block = rows.numbers[:, at : at + feature.width]
                fitted.append(_fit_numbers(feature, block[~np.isnan(block)]))
                at += feature.width
        columns = zip(*rows.categories, strict=True) if schema.categories else ()
        fill, center, scale = zip(*fitted, strict=True) if fitted else ((), (), ())
        return Preprocessor(schema, fill, center, scale, tuple(map(_kept_values, columns)))

    def encode(self, rows: Rows) -> NDArray[np.float32]:
        """Return ``(n, d)`` inputs; each row depends on itself alone."""
        n, width = rows.numbers.shape
        if width != self.schema.width:
            raise ValueError(f"rows have {width} columns, the schema {self.schema.width}")
        out = np.zeros((n, self.d), dtype=np.float32)
        numbers = rows.numbers
        if self.schema._nullable:
            numbers = np.where(np.isnan(numbers), self._fill, numbers)
        with np.errstate(over="ignore"):  # becomes +-inf, then +-LIMIT
            scaled = (numbers - self._center) / self._scale
        out[:, :width] = scaled.clip(-LIMIT, LIMIT)
        at = width
        for feature, slots in enumerate(self._slots):
            other = len(slots)
            values = [row[feature] for row in rows.categories]
            taken = [slots.get(v, other) if v is not None else -1 for v in values]
            hot = np.array(taken, dtype=np.intp)
            present = np.flatnonzero(hot >= 0)
            out[present, at + hot[present]] = 1.0
            at += other + 1
        return out

    def novel(self, rows: Rows) -> NDArray[np.bool_]:
        """Return ``(n,)``: whether a row holds a category that was not seen when fitting.

        A feature whose values were cut at ``MAX_CATEGORIES`` is open-ended and never novel.
        """
        found = np.zeros(len(rows), dtype=np.bool_)
        for feature, slots in enumerate(self._slots):
            if len(slots) < MAX_CATEGORIES:
                values = [row[feature] for row in rows.categories]
                found |= np.array(
                    [v is not None and v not in slots for v in values], dtype=np.bool_
                )
        return found

    def to_json(self) -> dict[str, object]:
        """Return everything but the schema as JSON values; floats survive exactly."""
        return {
            "fill": list(self.fill),
            "center": list(self.center),
            "scale": list(self.scale),
            "values": [list(kept) for kept in self.values],
        }

    @staticmethod
    def from_json(schema: FeatureSchema, value: Mapping[str, object]) -> "Preprocessor":
        """Return what ``to_json`` wrote; ValueError names what is wrong."""
        try:
            fill, center, scale = (
                tuple(float(v) for v in cast("list[float]", value[name]))
                for name in ("fill", "center", "scale")
            )
            values = tuple(
                tuple(map(str, kept)) for kept in cast("list[list[str]]", value["values"])
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"preprocessor: not what to_json writes ({error!r})") from error
        return Preprocessor(schema, fill, center, scale, values)


def _fit_numbers(feature: Feature, present: Numbers) -> tuple[float, float, float]:
    """Return (fill, center, scale) from the values that are not null."""
    if not len(present):
        return 0.0, 0.0, 1.0
    if feature.kind == "bool":
        return float(present.mean() >= 0.5), 0.0, 1.0
    largest = float(np.abs(present).max())
    unit = present / largest if largest else present  # sums of huge values must not overflow
    center, std = float(unit.mean()) * (largest or 1.0), float(unit.std())
    scale = std * largest if std > 1e-7 else 1.0  # a constant: its std is rounding noise
    fill = float(np.median(unit)) * (largest or 1.0) if feature.kind == "number" else center
    return fill, center, scale if scale > 0 else 1.0


def _kept_values(column: Sequence[str | None]) -> tuple[str, ...]:
    counts = Counter(value for value in column if value is not None)
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
    return tuple(sorted(kept))

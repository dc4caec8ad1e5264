"""One pass over a data file: what each column holds, in bounded memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.cell_values import read_bool, read_number, read_text
from pipeline.table_files import Cell, Table


@dataclass(slots=True)
class ColumnFacts:
    """What was seen in one column.

    Attributes:
        most_distinct: Different values counted at most.
        rows: Cells seen.
        missing: Cells without a value.
        numbers: Cells that are finite numbers.
        fractions: Numbers that are not whole.
        bools: Cells that are true or false.
        lengths: Lengths of the arrays that were seen, at most two different ones.
        bad_array: First array that holds anything but finite numbers: (row, value).
        text: First cell that is neither number nor missing: (row, value).
        infinite: First number that is not finite: (row, value).
        missing_at: Row of the first missing cell.
        values: Canonical text -> how often; incomplete once ``overflow`` is set.
        overflow: Whether there are more different values than were counted.
    """

    most_distinct: int
    rows: int = 0
    missing: int = 0
    numbers: int = 0
    fractions: int = 0
    bools: int = 0
    lengths: set[int] = field(default_factory=set)
    bad_array: tuple[int, object] | None = None
    text: tuple[int, object] | None = None
    infinite: tuple[int, object] | None = None
    missing_at: int | None = None
    values: Counter[str] = field(default_factory=Counter)
    overflow: bool = False

    @property
    def present(self) -> int:
        """Cells with a value."""
        return self.rows - self.missing

    def see(self, first: int, cells: list[Cell]) -> None:
        """Take in consecutive cells; ``first`` is the row of the first one."""
        for row, cell in enumerate(cells, first):
            if cell is None:
                self.missing += 1
                if self.missing_at is None:
                    self.missing_at = row
            elif isinstance(cell, list):
                self._see_array(row, cell)
            else:
                self._see_plain(row, cell)
        self.rows += len(cells)
        if not self.overflow:
            self._count(cells)

    def _see_plain(self, row: int, cell: Cell) -> None:
        number = read_number(cell)
        if number is not None:
            self.numbers += 1
            self.fractions += not number.is_integer()
            return
        if read_bool(cell) is not None:
            self.bools += 1
        elif self.infinite is None and _not_finite(cell):
            self.infinite = (row, cell)
        if self.text is None:
            self.text = (row, cell)

    def _see_array(self, row: int, cell: list[object]) -> None:
        if len(self.lengths) < 2:
            self.lengths.add(len(cell))
        if self.bad_array is None and any(
            not isinstance(v, int | float) or read_number(v) is None for v in cell
        ):
            self.bad_array = (row, cell)

    def _count(self, cells: list[Cell]) -> None:
        texts = (read_text(c) for c in cells if c is not None and not isinstance(c, list))
        self.values.update(t for t in texts if t is not None)
        if len(self.values) > self.most_distinct:
            self.overflow = True
            self.values = Counter(dict(self.values.most_common(self.most_distinct)))


def _not_finite(cell: Cell) -> bool:
    return str(cell).lstrip("+-").lower() in {"inf", "infinity"}


def scan(table: Table, most_distinct: Mapping[str, int]) -> dict[str, ColumnFacts]:
    """Read the columns named in ``most_distinct`` once; its values bound what is counted."""
    names = list(most_distinct)
    facts = {name: ColumnFacts(most_distinct[name]) for name in names}
    for batch in table.batches(names):
        for name, cells in zip(names, batch.columns, strict=True):
            facts[name].see(batch.first, cells)
    return facts

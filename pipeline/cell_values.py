"""What one cell of a data file means, once its column's kind is known."""

import math
import re
from datetime import UTC, datetime

from pipeline.table_files import Cell

EPOCH_SECONDS_BELOW = 1e11
"""A smaller time is epoch seconds (until the year 5138), a larger one epoch milliseconds."""

_WHOLE = re.compile(r"^-?\d+\.0+$", re.ASCII)
_BOOLS = {"true": True, "false": False}


def read_number(cell: Cell) -> float | None:
    """Return a finite number, or None where the cell holds none.

    >>> [read_number(c) for c in ("1.5", " 2", 3, "1_000", "inf", True, "x")]
    [1.5, 2.0, 3.0, None, None, None, None]
    """
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    if isinstance(cell, str) and "_" in cell:
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_bool(cell: Cell) -> bool | None:
    """Return a truth value, or None where the cell holds none.

    >>> [read_bool(c) for c in ("True", "false", False, "yes")]
    [True, False, False, None]
    """
    if isinstance(cell, bool):
        return cell
    return _BOOLS.get(cell.lower()) if isinstance(cell, str) else None


def read_text(cell: Cell) -> str | None:
    """Return a value as canonical text: labels, categories, tasks, groups and ids.

    A number that is whole loses its decimal point, so that a class written 1, 1.0 or "1.0" is
    one class.

    >>> [read_text(c) for c in (1, 1.0, "1.0", "1.5", True, "lane A", "007", "-0.0")]
    ['1', '1', '1', '1.5', 'true', 'lane A', '007', '0']
    """
    match cell:
        case None:
            return None
        case bool():
            return "true" if cell else "false"
        case float() if cell.is_integer():
            return str(int(cell))
        case str():
            return str(int(cell.partition(".")[0])) if _WHOLE.match(cell) else cell
        case datetime():
            return cell.isoformat()
        case _:
            return str(cell)


def read_time_ms(cell: Cell) -> int | None:
    """Return epoch milliseconds, or None where the cell is no time; no zone means UTC.

    >>> [read_time_ms(c) for c in ("2000-01-01T00:00:01Z", "2000-01-01", 946684800, 946684800000)]
    [946684801000, 946684800000, 946684800000, 946684800000]
    """
    number = read_number(cell)
    if number is not None:
        return round(number * 1000 if abs(number) < EPOCH_SECONDS_BELOW else number)
    moment = cell
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if not isinstance(moment, datetime):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)

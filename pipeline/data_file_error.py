"""The error of everything that reads data files: where, what, and what to do."""


class DataFileError(Exception):
    """A file, a column or a cell that cannot be used.

    Args:
        file: Name of the file.
        problem: What is wrong there.
        fix: What to do about it.
        column: Where, if it is one column.
        row: Where, counted from 0 without the header, if it is one row.
        value: What was found there.
    """

    def __init__(
        self,
        file: str,
        problem: str,
        fix: str,
        *,
        column: str | None = None,
        row: int | None = None,
        value: object = None,
    ) -> None:
        where = [file]
        if column is not None:
            where.append(f"column {column!r}")
        if row is not None:
            where.append(f"row {row} (from 0)")
        found = "" if value is None else f"{shorten(value)}: "
        super().__init__(f"{', '.join(where)}: {found}{problem}; {fix}")
        self.file, self.problem, self.fix = file, problem, fix
        self.column, self.row, self.value = column, row, value


def shorten(value: object) -> str:
    """Return a value for an error message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""One file per command: its options and its work. Heavy imports are inside the functions."""

__all__: list[str] = []

"""How much of its past a daemon keeps on disk."""

from pydantic import Field

from pipeline.settings_section import Section


class KeepSettings(Section):
    """How much of the past stays on disk; what is in use is never dropped."""

    journal_entries: int = Field(1_000_000, ge=10)
    """Steps that `replay --journal` can repeat; the journal holds at most about twice as many."""
    shelf_mb: float = Field(500.0, gt=0)
    """Megabytes of new models and results after which a new stretch of the journal begins."""
    decisions: int = Field(100_000, ge=1000)
    """Decisions kept in the state file; their topic keeps all."""

"""``metadrift demo``: a sorting centre whose plans change without notice."""

__all__: list[str] = []

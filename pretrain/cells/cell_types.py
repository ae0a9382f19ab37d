"""What a corpus is about: its cell types, and what else is said of its cells."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CellTypes:
    """Types and aspects of the cells of a corpus, however it is stored.

    Attributes
    ----------
    term_ids
        Distinct types; cells refer to them by place.
    aspects
        Distinct (tissue, disease, stage), '' where unknown.
    pairs
        (type, aspect) that cells have, ascending.
    """

    term_ids: tuple[str, ...]
    aspects: tuple[tuple[str, str, str], ...]
    pairs: tuple[tuple[int, int], ...]

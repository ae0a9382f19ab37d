"""Cell types of a corpus, and their tissues, diseases and stages."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CellTypes:
    """Types and aspects of the cells of a corpus.

    Attributes
    ----------
    term_ids
        Distinct types; cells refer to them by index.
    aspects
        Distinct (tissue, disease, stage), '' where unknown.
    pairs
        Distinct (type, aspect) index pairs of the cells, ascending.
    """

    term_ids: tuple[str, ...]
    aspects: tuple[tuple[str, str, str], ...]
    pairs: tuple[tuple[int, int], ...]

"""Hold cell types out of training, to measure accuracy on unseen types."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ontology.graph import Ontology
from pretrain.recipe.cell_config import Holdout
from pretrain.recipe.config import Recipe
from pretrain.recipe.sources import SourceFile, label_rows

FILE = "holdout.tsv"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out types.

    Attributes
    ----------
    roots
        The chosen training types, sorted; all their descendants are held out too.
    rows
        Number of dropped corpus rows by term id; 0 for descendants without data.
    n_terms
        Number of training types before.
    """

    roots: tuple[str, ...] = ()
    rows: Mapping[str, int]
    n_terms: int

    @property
    def term_ids(self) -> frozenset[str]:
        """All held-out types."""
        return frozenset(self.rows)

    def lines(self, ontology: Ontology) -> list[str]:
        """Return log lines: the total, then a line for each chosen type; empty if there are none."""
        if not self.roots:
            return []
        n_dropped = sum(n > 0 for n in self.rows.values())
        head = (
            f"held out {n_dropped} of {self.n_terms} training types with {sum(self.rows.values())} "
            f"rows: {len(self.roots)} chosen types and their descendants"
        )
        return [head, *(f"held out {self._line(root, ontology)}" for root in self.roots)]

    def _line(self, root: str, ontology: Ontology) -> str:
        descendants = [each for each in ontology.descendants(root) if self.rows[each]]
        n_rows = self.rows[root] + sum(self.rows[each] for each in descendants)
        note = f" with {len(descendants)} descendants" if descendants else ""
        return f"{root} {ontology.terms[root].name}{note}: {n_rows} rows"

    def write(self, path: Path, ontology: Ontology) -> None:
        """Write a table with a row for each held-out type."""
        lines = ["term_id\tname\tchosen\trows"]
        for term_id in sorted(self.rows):
            chosen = "yes" if term_id in self.roots else "no"
            name = ontology.terms[term_id].name
            lines.append(f"{term_id}\t{name}\t{chosen}\t{self.rows[term_id]}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def hold_out(recipe: Recipe, files: Sequence[SourceFile], ontology: Ontology) -> HeldOut:
    """Choose the types that the recipe's `holdout` drops from files."""
    if not recipe.holdout.share:
        return HeldOut(rows={}, n_terms=0)
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(label_rows(file.path, recipe.columns, ontology).term_ids)
    return choose_held_out(counts, recipe.holdout, ontology)


def choose_held_out(rows: Mapping[str, int], settings: Holdout, ontology: Ontology) -> HeldOut:
    """Choose types by the hash of seed and term id, whatever the files and their order.

    Types are taken in the order of their hashes, each with all its descendants. A type that would
    exceed the share is skipped: "leukocyte" alone is a quarter of a corpus of blood.

    Parameters
    ----------
    rows
        Number of rows of each training type.

    Raises
    ------
    ValueError
        If the share is less than one type.
    """
    n_wanted = round(settings.share * len(rows))
    roots: list[str] = []
    dropped: set[str] = set()
    for term_id in sorted(rows, key=lambda each: (_hash(settings.seed, each), each)):
        branch = {term_id, *ontology.descendants(term_id)} & rows.keys()
        if term_id not in dropped and len(dropped | branch) <= n_wanted:
            roots.append(term_id)
            dropped |= branch
    if not roots:
        raise ValueError(
            f"holdout.share={settings.share} of {len(rows)} training types is less than one type; "
            "give a larger share"
        )
    everything = dropped.union(*(ontology.descendants(root) for root in roots))
    return HeldOut(
        roots=tuple(sorted(roots)),
        rows={term_id: rows.get(term_id, 0) for term_id in sorted(everything)},
        n_terms=len(rows),
    )


def _hash(seed: int, term_id: str) -> str:
    return hashlib.sha256(f"{seed}:{term_id}".encode()).hexdigest()

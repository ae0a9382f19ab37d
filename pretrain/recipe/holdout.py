"""Cell types that a run must never see, so that its accuracy on unseen types can be measured."""

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
    """The types that are held out.

    Attributes
    ----------
    roots
        The chosen training types, sorted; all their descendants are held out with them.
    rows
        Rows of the corpus that are dropped, by term id; 0 for descendants without data.
    n_terms
        Training types there were before.
    """

    roots: tuple[str, ...] = ()
    rows: Mapping[str, int]
    n_terms: int

    @property
    def term_ids(self) -> frozenset[str]:
        """All held-out types."""
        return frozenset(self.rows)

    def lines(self, ontology: Ontology) -> list[str]:
        """Say what is dropped, for the log: the sum, then a line for each chosen type.

        Empty where nothing is held out.
        """
        if not self.roots:
            return []
        n_lost = sum(n > 0 for n in self.rows.values())
        head = (
            f"held out {n_lost} of {self.n_terms} training types with {sum(self.rows.values())} "
            f"rows: {len(self.roots)} chosen ones and their descendants"
        )
        return [head, *(f"held out {self._line(root, ontology)}" for root in self.roots)]

    def _line(self, root: str, ontology: Ontology) -> str:
        below = [each for each in ontology.descendants(root) if self.rows[each]]
        n_rows = self.rows[root] + sum(self.rows[each] for each in below)
        with_it = f" with {len(below)} descendants" if below else ""
        return f"{root} {ontology.terms[root].name}{with_it}: {n_rows} rows"

    def write(self, path: Path, ontology: Ontology) -> None:
        """Write a row for each held-out type."""
        lines = ["term_id\tname\tchosen\trows"]
        for term_id in sorted(self.rows):
            chosen = "yes" if term_id in self.roots else "no"
            name = ontology.terms[term_id].name
            lines.append(f"{term_id}\t{name}\t{chosen}\t{self.rows[term_id]}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def hold_out(recipe: Recipe, files: Sequence[SourceFile], ontology: Ontology) -> HeldOut:
    """Choose the types that the recipe's `holdout` leaves out of some files."""
    if not recipe.holdout.share:
        return HeldOut(rows={}, n_terms=0)
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(label_rows(file.path, recipe.columns, ontology).term_ids)
    return choose_held_out(counts, recipe.holdout, ontology)


def choose_held_out(rows: Mapping[str, int], settings: Holdout, ontology: Ontology) -> HeldOut:
    """Choose types by the hash of seed and term id: neither files nor their order matter.

    Types are taken in the order of their hashes, each with all its descendants. One that would
    bring more than the share of the training types out of training is passed over: "leukocyte"
    alone is a quarter of a corpus of blood.

    Parameters
    ----------
    rows
        Rows of each training type.

    Raises
    ------
    ValueError
        If the share is less than one type.
    """
    n_wanted = round(settings.share * len(rows))
    roots: list[str] = []
    lost: set[str] = set()
    for term_id in sorted(rows, key=lambda each: (_hash(settings.seed, each), each)):
        branch = {term_id, *ontology.descendants(term_id)} & rows.keys()
        if term_id not in lost and len(lost | branch) <= n_wanted:
            roots.append(term_id)
            lost |= branch
    if not roots:
        raise ValueError(
            f"holdout.share={settings.share} of {len(rows)} training types is less than one type; "
            "give a larger share"
        )
    everything = lost.union(*(ontology.descendants(root) for root in roots))
    return HeldOut(
        roots=tuple(sorted(roots)),
        rows={term_id: rows.get(term_id, 0) for term_id in sorted(everything)},
        n_terms=len(rows),
    )


def _hash(seed: int, term_id: str) -> str:
    return hashlib.sha256(f"{seed}:{term_id}".encode()).hexdigest()

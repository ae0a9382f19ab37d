"""The wordings of every label of the ontology; each step draws one per label."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ontology.descriptions import describe
from ontology.graph import Ontology


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTexts:
    """Texts of all labels, grouped by label, with the description first.

    Attributes
    ----------
    texts
        All wordings.
    starts
        Index of the first text of each label, int64, shape (n_labels + 1,).
    """

    texts: tuple[str, ...]
    starts: np.ndarray

    def choose(self, definition: float, rng: np.random.Generator) -> np.ndarray:
        """Draw one wording per label; return indices into `texts`, int64, shape (n_labels,).

        The description has probability `definition`, the other wordings share the rest.
        """
        n_others = np.diff(self.starts) - 1
        other = 1 + (rng.random(len(n_others)) * n_others).astype(np.int64)
        is_other = (rng.random(len(n_others)) >= definition) & (n_others > 0)
        return self.starts[:-1] + np.where(is_other, other, 0)


def build_label_texts(
    ontology: Ontology, term_ids: Sequence[str], *, max_synonyms: int
) -> LabelTexts:
    """Collect description, name and synonyms of each term, with and without the template."""
    wordings = [bare_texts(ontology, term_id, max_synonyms) for term_id in term_ids]
    return LabelTexts(
        texts=tuple(text for own in wordings for text in own),
        starts=np.cumsum([0, *map(len, wordings)]),
    )


def bare_texts(ontology: Ontology, term_id: str, max_synonyms: int) -> list[str]:
    """Return a term's wordings without tissue, disease or stage, starting with the description.

    The others are the name alone, and the template with the name or a synonym but no definition.
    """
    term = ontology.terms[term_id]
    names = (term.name, *term.synonyms[:max_synonyms])
    texts = [describe(ontology, term_id), term.name, *(f"cell type: {name}. " for name in names)]
    return list(dict.fromkeys(texts))

"""Draw cells of given types from the training split, about equally many per type."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.model.langcell import LangCell
from langcell.tokens.tokenizer import ColumnGenes, RankTokenizer
from pretrain.cells.memory_corpus import Corpus
from pretrain.cells.sampling import CellSampler
from pretrain.recipe.config import Recipe
from pretrain.run.validation import reference_features

CELLS_PER_TYPE = 20
_BATCH = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class TypeCells:
    """Drawn cells.

    Attributes
    ----------
    counts: linear values, CSR, shape (n_cells, n_genes)
    ensembl_ids: gene of each column
    term_ids: type of each cell, shape (n_cells,)
    """

    counts: sparse.csr_matrix
    ensembl_ids: tuple[str, ...]
    term_ids: np.ndarray

    def features(self, model: LangCell) -> np.ndarray:
        """Embed the cells, float32, shape (n_cells, embedding_dim)."""
        tokens = model.genes.token_ids(self.ensembl_ids)
        known = np.flatnonzero(tokens >= 0)
        genes = ColumnGenes(
            tokens=tokens[known],
            medians=model.genes.token_medians[tokens[known]],
            first_columns=None,
        )
        tokenizer = RankTokenizer(model.genes, max_genes=model.config.max_genes)
        block = tokenizer.tokenize_csr(self.counts[:, known].tocsr(), genes)
        cells = [block.cell(row) for row in range(block.n_cells)]
        found = reference_features(model, cells, batch_size=_BATCH)
        return found.features.astype(np.float32)


def choose_types(removed: Iterable[str], kept: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the removed types and as many kept ones, chosen by the hash of their ids."""
    removed = set(removed)
    ordered = sorted(kept, key=lambda each: hashlib.sha256(each.encode()).hexdigest())
    return removed, set(ordered[: len(removed)])


def draw_type_cells(corpus: Corpus, recipe: Recipe, term_ids: set[str]) -> TypeCells:
    """Draw `CELLS_PER_TYPE` cells per type: single cells without, profiles with replacement.

    Cells are drawn from profiles as in training; single cells are unchanged, with all genes.
    """
    plain = recipe.augmentation.model_copy(update={"subset": 0.0, "gene_dropout": 0.0, "thin": 0.0})
    sampler = CellSampler(corpus, plain, recipe.balance, seed=0)
    is_profile = np.array([file.is_profile for file in corpus.sources])[corpus.source]
    rng = np.random.default_rng(0)
    chosen = []
    for term_id in sorted(term_ids):
        rows = np.flatnonzero(corpus.term == corpus.term_ids.index(term_id))
        order = rng.permutation(rows)
        again = order[is_profile[order]]
        n_missing = CELLS_PER_TYPE - len(order)
        more = np.resize(again, n_missing) if len(again) and n_missing > 0 else order[:0]
        chosen.append(np.concatenate([order[:CELLS_PER_TYPE], more]))
    examples = np.concatenate(chosen)
    return TypeCells(
        counts=sampler.draw(examples, 0).counts,
        ensembl_ids=corpus.ensembl_ids,
        term_ids=np.array(corpus.term_ids, dtype=object)[corpus.term[examples]],
    )

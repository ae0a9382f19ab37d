"""Cell types and aspects of a corpus of shards, as training codes."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from langcell.tokens.token_corpus import TokenCorpus
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.cells.mean_expression import TypeMeans


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardTypes:
    """Types and aspects of a corpus, and the mapping from the codes of its shards.

    Attributes
    ----------
    types
        Training types and aspects.
    term
        Index of each term of the manifest in `types.term_ids`, -1 if left out.
    aspect
        Index of the aspects of each text of the corpus in `types.aspects`.
    """

    types: CellTypes
    term: np.ndarray
    aspect: np.ndarray


def shard_types(
    corpus: TokenCorpus, ontology: Ontology, *, without: Set[str] = frozenset()
) -> ShardTypes:
    """Assign codes to the types and aspects of a corpus.

    Parameters
    ----------
    corpus
        Corpus of shards.
    ontology
        Ontology of the recipe; it may be another release than that of the corpus.
    without
        Types to leave out.

    Raises
    ------
    ValueError
        If the ontology lacks a type of the corpus.
    """
    names = corpus.manifest.categories["term"]
    present = {names[term] for term, _, _ in corpus.manifest.pairs if term >= 0}
    gone = sorted(each for each in present if ontology.current(each) != each)
    if gone:
        raise ValueError(
            f"{corpus.folder} has {gone[0]}, which is not a current term of {ontology.title}; it was"
            f" built with {corpus.manifest.built['ontology']}: use that ontology, or rebuild it"
        )
    term_ids = tuple(sorted(present - without))
    place = {term_id: number for number, term_id in enumerate(term_ids)}
    described = [(each.tissue, each.disease, each.stage) for each in corpus.descriptions]
    aspects = tuple(sorted(set(described)))
    aspect_place = {each: number for number, each in enumerate(aspects)}
    aspect = np.array([aspect_place[each] for each in described], dtype=np.int64)
    pairs = {
        (place[each.term_id], int(number))
        for each, number in zip(corpus.descriptions, aspect, strict=True)
        if each.term_id in place
    }
    return ShardTypes(
        types=CellTypes(term_ids=term_ids, aspects=aspects, pairs=tuple(sorted(pairs))),
        term=np.array([place.get(name, -1) for name in names], dtype=np.int64),
        aspect=aspect,
    )


def shard_type_means(corpus: TokenCorpus, types: ShardTypes, *, n_cells: int) -> TypeMeans:
    """Return the mean rank of genes in the cells of each type, in place of expression.

    Shards hold no expression values: a gene's value in a cell is the share of the cell's genes that
    rank below it, 0 if the cell does not express it.

    Parameters
    ----------
    corpus
        Corpus of shards; its first cells are a random sample, as its cells are shuffled.
    types
        Codes of types.
    n_cells
        Number of cells to sample.
    """
    n_terms, n_genes = len(types.types.term_ids), corpus.vocabulary.n_genes
    totals = np.zeros((n_terms, n_genes), dtype=np.float32)
    sizes = np.zeros((n_terms, len(corpus.measured)), dtype=np.float32)
    for number, shard in enumerate(corpus.manifest.shards):
        left = n_cells - int(corpus.starts[number])
        if left <= 0:
            break
        cells = corpus.shard(number).slice(0, min(left, shard.n_cells))
        term = types.term[cells.columns["term"]]
        term[cells.columns["term"] < 0] = -1
        used = np.flatnonzero(term >= 0)
        cells, term = cells.take(used), term[used]
        lengths = np.repeat(cells.lengths, cells.lengths)
        ranks = np.arange(len(cells.tokens)) - np.repeat(cells.offsets[:-1], cells.lengths)
        rows = sparse.csr_matrix(
            (
                (1 - ranks / lengths).astype(np.float32),
                cells.tokens.astype(np.int64) - 2,
                cells.offsets,
            ),
            shape=(len(used), n_genes),
        )
        one = np.ones(len(used), dtype=np.float32)
        of_term = sparse.csr_matrix((one, (term, np.arange(len(used)))), (n_terms, len(used)))
        totals += (of_term @ rows).toarray()  # types x genes: small beside a shard
        np.add.at(sizes, (term, cells.columns["file"]), 1)
    n_measured = sizes @ corpus.measured.astype(np.float32)  # (n_terms, n_genes)
    vocabulary = corpus.vocabulary
    order = np.argsort(vocabulary.gene_tokens)
    return TypeMeans(
        values=totals / np.maximum(n_measured, 1),
        measured=n_measured > 0,
        term=np.arange(n_terms),
        ensembl_ids=tuple(vocabulary.ensembl_ids[gene] for gene in order),
    )

"""Gene and token dictionaries of datasets that were tokenised elsewhere."""

from pathlib import Path

import numpy as np

from langcell.genes.dictionary import read_dictionary
from langcell.genes.gene_table import GeneTable
from langcell.genes.spellings import human_ensembl_id
from langcell.genes.vocabulary import GeneVocabulary


def read_gene_numbers(path: Path) -> dict[str, float]:
    """Read a number per gene; see `langcell.genes.dictionary.read_dictionary`.

    Returns
    -------
    dict of str to float
        By Ensembl id without version; other keys (special tokens) are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or holds something else; the message names it.
    """
    numbers = {
        ensembl_id: value
        for key, value in read_dictionary(path).items()
        if (ensembl_id := human_ensembl_id(key))
    }
    if not numbers:
        raise ValueError(f"{path} has no human Ensembl id (ENSG...)")
    return numbers


def vocabulary_of(tokens: dict[str, float], medians: dict[str, float]) -> GeneVocabulary:
    """Return the vocabulary of genes that have both a token and a median.

    If the tokens are 2, 3, ... without gaps, as in LangCell and the first Geneformer, they are kept,
    so that weights trained on them fit; otherwise genes are renumbered in the order of their tokens.

    Raises
    ------
    ValueError
        If no gene has both.
    """
    shared = sorted(tokens.keys() & medians.keys(), key=lambda each: (tokens[each], each))
    genes = [each for each in shared if medians[each] > 0]
    if not genes:
        raise ValueError("no gene has both a token and a median: the two dictionaries do not fit")
    table = GeneTable.bundled()
    return GeneVocabulary(
        ensembl_ids=tuple(genes),
        symbols=tuple(table.symbol(each) for each in genes),
        medians=np.array([medians[each] for each in genes]),
    )


def token_map(tokens: dict[str, float], vocabulary: GeneVocabulary) -> np.ndarray:
    """Return our token for each token of a dataset, -1 if none; int64, shape (highest + 2,).

    If two of its genes map to one of ours, the one with our id is used, else the first.
    """
    ours_by_id = set(vocabulary.ensembl_ids)
    ids = sorted(tokens, key=lambda each: (each not in ours_by_id, tokens[each]))
    theirs = np.array([int(tokens[each]) for each in ids])
    ours = vocabulary.token_ids(ids)
    _, first = np.unique(ours, return_index=True)
    is_first = np.zeros(len(ours), dtype=bool)
    is_first[first] = True
    table = np.full(theirs.max() + 2, -1, dtype=np.int64)
    table[theirs] = np.where(is_first, ours, -1)
    return table

"""Dictionaries of genes, as Geneformer ships them: Ensembl id to token, Ensembl id to median.

A pickle can run any code when it is read. These hold nothing but a dict of strings and numbers,
so that is all the reader here can make of one.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from langcell.gene_names import human_ensembl_id
from langcell.gene_table import GeneTable
from langcell.genes import GeneVocabulary

# What a number of numpy needs to come back from a pickle, under its old name and its new one;
# neither can run code.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
}


class _PlainUnpickler(pickle.Unpickler):
    """Makes dicts, strings and numbers, and refuses whatever else a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_gene_numbers(path: Path) -> dict[str, float]:
    """Read a number for each gene from a JSON object, a two-column TSV or a pickled dict.

    Returns
    -------
    dict of str to float
        By Ensembl id without version; other keys (special tokens) are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it holds something else; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no dictionary of genes {path}")
    content = path.read_bytes()
    try:
        values = _parse(content, path.suffix)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        numbers = {
            ensembl_id: float(value)
            for key, value in values.items()
            if (ensembl_id := human_ensembl_id(str(key)))
        }
    except (ValueError, TypeError, EOFError, IndexError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path}: wanted a dictionary of Ensembl id to number, as JSON, a TSV of two columns or"
            f" a pickle of plain values; {error}"
        ) from error
    if not numbers:
        raise ValueError(f"{path} names no human Ensembl id (ENSG...)")
    return numbers


def vocabulary_of(tokens: dict[str, float], medians: dict[str, float]) -> GeneVocabulary:
    """Return the vocabulary of genes that have both a token and a median.

    Where the tokens are 2, 3, ... without a gap, as in LangCell and the first Geneformer, they
    stay, and weights trained on them fit; otherwise genes are numbered in the order of their
    tokens.

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
    """Return our token for each of theirs, -1 where we have none; int64, shape (highest + 2,).

    Two of their genes may be one of ours by now; the one whose id is ours still counts, else the
    first.
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


def _parse(content: bytes, suffix: str) -> Any:
    if suffix in (".pkl", ".pickle"):
        return _PlainUnpickler(io.BytesIO(content)).load()
    text = content.decode("utf-8")
    if suffix == ".json":
        return json.loads(text)
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError("a line does not have two columns")
    if not human_ensembl_id(rows[0][0]):
        del rows[0]  # a header
    return dict(rows)

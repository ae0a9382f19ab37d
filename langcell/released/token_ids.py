"""Map the token ids of a released model to langcell token ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from langcell.genes.dictionary import read_dictionary
from langcell.genes.gene_table import GeneTable
from langcell.genes.vocabulary import GeneVocabulary
from langcell.nn.config import SpecialTokens
from langcell.runtime.parameter_names import option

_SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")
_NAMES = {"token_dictionary": "token_dictionary*", "gene_medians": "gene_median_dictionary*"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedTokens:
    """Mapping from langcell token ids to rows of a released embedding table.

    Attributes
    ----------
    vocabulary
        Genes with a token and a median, in the order of their tokens.
    special_tokens
        Special tokens added to the genes of a cell.
    rows
        Row of the released embedding table for each langcell token, -1 for CLS if the release has
        none; int64, shape (n_tokens,).
    n_rows
        Number of rows that the released table must have.
    without_median
        Genes with a token but no median, which cannot be ranked.
    """

    vocabulary: GeneVocabulary
    special_tokens: SpecialTokens
    rows: np.ndarray
    n_rows: int
    without_median: tuple[str, ...]

    def take(self, table: Tensor) -> Tensor:
        """Return the table with one row per langcell token; a new CLS is the mean over genes."""
        taken = table[torch.from_numpy(self.rows.clip(min=0))]
        cls_id = self.vocabulary.cls_id
        if self.rows[cls_id] < 0:
            taken[cls_id] = taken[2:cls_id].mean(0)
        return taken


def find_dictionaries(
    folder: Path, token_dictionary: Path | None = None, gene_medians: Path | None = None
) -> tuple[Path, Path]:
    """Return the paths of the two dictionaries, as given or as found in `folder`.

    Raises
    ------
    FileNotFoundError, ValueError
        If a dictionary is not given, and the folder has none or several.
    """
    named = {"token_dictionary": token_dictionary, "gene_medians": gene_medians}
    found = []
    for kind, path in named.items():
        matches = [path] if path else sorted(folder.glob(_NAMES[kind]))
        if not matches:
            raise FileNotFoundError(f"{folder} has no {_NAMES[kind]}: pass {option(kind)}")
        if len(matches) > 1:
            names = ", ".join(each.name for each in matches)
            raise ValueError(f"{folder} has {names}: choose one with {option(kind)}")
        found.append(matches[0])
    return found[0], found[1]


def read_released_tokens(
    token_dictionary: Path, gene_medians: Path, *, cls_is_last: bool = False
) -> ReleasedTokens:
    """Read the dictionaries of a release.

    Parameters
    ----------
    token_dictionary, gene_medians
        See `langcell.genes.dictionary.read_dictionary`.
    cls_is_last
        The weights have a CLS after all tokens of the dictionary, as in LangCell, which appends one
        to the tokens of Geneformer.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, or tokens are not numbered 0, 1, 2, ... with padding and
        mask among them.
    """
    numbers, medians = read_dictionary(token_dictionary), read_dictionary(gene_medians)
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ValueError(
            f"{token_dictionary}: the tokens must be 0 to {len(numbers) - 1}, each once"
        )
    special = {name: int(number) for name, number in numbers.items() if name.startswith("<")}
    if cls_is_last and "<cls>" not in special:
        special["<cls>"] = len(numbers)
    around = _special_tokens(special, token_dictionary)
    coded = sorted(
        (name for name in numbers if name not in special), key=lambda each: numbers[each]
    )
    genes = [name for name in coded if medians.get(name, 0) > 0]
    if not genes:
        raise ValueError(
            f"no gene of {token_dictionary} has a median in {gene_medians}: pass two files of the "
            "same release"
        )
    table = GeneTable.bundled()
    vocabulary = GeneVocabulary(
        ensembl_ids=tuple(genes),
        symbols=tuple(table.symbol(name) for name in genes),
        medians=np.array([medians[name] for name in genes]),
    )
    rows = [special["<pad>"], special["<mask>"], *(int(numbers[name]) for name in genes)]
    rows.append(special.get("<cls>", -1))
    if around == "cls_eos":
        rows.append(special["<eos>"])
    return ReleasedTokens(
        vocabulary=vocabulary,
        special_tokens=around,
        rows=np.array(rows),
        n_rows=len(numbers.keys() | special.keys()),
        without_median=tuple(sorted(set(coded) - set(genes))),
    )


def _special_tokens(special: Mapping[str, int], where: Path) -> SpecialTokens:
    """Return which special tokens are added to a cell; raise if the dictionary is unsupported."""
    if lacking := [name for name in _SPECIAL[:2] if name not in special]:
        raise ValueError(f"{where} has no token {lacking[0]}")
    if unknown := sorted(set(special) - set(_SPECIAL)):
        raise ValueError(f"{where} has a token {unknown[0]} that no known release reads")
    if "<eos>" in special and "<cls>" not in special:
        raise ValueError(f"{where} has a token <eos> but no <cls>")
    return "cls_eos" if "<eos>" in special else "cls" if "<cls>" in special else "none"

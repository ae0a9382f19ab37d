"""Catalog of a corpus, common to all inputs: genes with medians, category codes, texts."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from langcell.genes.vocabulary import GeneTable, GeneVocabulary
from langcell.runtime.output_file import replaced_file
from langcell.runtime.parameter_names import option
from langcell.tokens.token_corpus import GENES, Description
from ontology.descriptions import ASPECTS, describe_aspects
from ontology.graph import Ontology
from pretrain.corpus.options import BuildOptions
from pretrain.corpus.survey import RowStatus, Survey
from pretrain.corpus.token_dictionary import read_gene_numbers, vocabulary_of
from pretrain.corpus.token_genes import token_genes
from pretrain.corpus.value_histogram import ValueHistogram
from pretrain.recipe.cell_keys import mixed
from pretrain.recipe.obs_columns import Column

CATALOG = "catalog.json"
CATEGORIES = ("term", "study", "donor", "tissue", "assay")
_TEXT = ("term", "tissue", "disease", "stage")
_ID = re.compile(r"[A-Za-z]+:\w+")
_ASPECTS = {
    "term": "cell type",
    "tissue": "tissue",
    "disease": "disease",
    "stage": "development stage",
}
# Duplicates are found over the genes that all inputs measure. Inputs that measure less than this
# share of the median number of genes (panels) do not restrict that set.
_WIDE_SHARE = 0.5
# One count in a cell of 20,000, the deepest that training draws: lower medians come from much deeper
# sources, and would rank the gene first in every cell that has one count of it.
_MIN_MEDIAN = 0.5
_MOST_NAMED = 3  # labels in a message


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """Size and storage of an input, which determine its tasks."""

    n_cells: int
    is_by_gene: bool
    error: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalog:
    """Meaning of the tokens and codes of a corpus.

    Attributes
    ----------
    vocabulary
        Genes and their medians.
    categories
        Values of the codes, by the names of `CATEGORIES`.
    texts
        Distinct (term, tissue, disease, stage).
    compared
        Indices into `token_genes` of the genes by which duplicates are found.
    inputs
        Size of each input.
    """

    vocabulary: GeneVocabulary
    categories: Mapping[str, tuple[str, ...]]
    texts: tuple[tuple[str, str, str, str], ...]
    compared: np.ndarray
    inputs: tuple[InputSize, ...]

    @cached_property
    def gene_bits(self) -> np.ndarray:
        """Hash of each gene of `token_genes`, 0 if not compared, uint64, (n_genes,)."""
        bits = np.zeros(len(token_genes()), dtype=np.uint64)
        bits[self.compared] = mixed(self.compared.astype(np.uint64))
        return bits

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: code for code, value in enumerate(values)}
            for name, values in self.categories.items()
        }

    @cached_property
    def _text_codes(self) -> dict[tuple[str, ...], int]:
        return {each: code for code, each in enumerate(self.texts)}

    def recoded(self, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """Return the columns of an input as codes of the corpus, with the codes of its texts."""
        recoded = {}
        for name in CATEGORIES:
            column, codes = columns[name], self._codes[name]
            table = np.array([*(codes.get(value, -1) for value in column.values), -1], np.int32)
            recoded[name] = table[column.codes]
        return recoded | {"text": self._texts_of(columns)}

    def _texts_of(self, columns: Mapping[str, Column]) -> np.ndarray:
        combinations, place = _combinations(columns)
        codes = [self._text_codes.get(each, -1) for each in combinations]
        return np.array(codes, dtype=np.int32)[place]

    def descriptions(self, ontology: Ontology) -> tuple[Description, ...]:
        """Return the text of each combination, in the template of the paper."""
        return tuple(
            Description(
                term_id=each[0],
                tissue=each[1],
                disease=each[2],
                stage=each[3],
                text=_describe(each, ontology),
            )
            for each in self.texts
        )

    def write(self, folder: Path) -> None:
        """Write genes.tsv, then catalog.json."""
        with replaced_file(folder / GENES) as part:
            self.vocabulary.write(part)
        values = {
            "categories": self.categories,
            "texts": self.texts,
            "compared": self.compared.tolist(),
            "inputs": [vars(each) for each in self.inputs],
        }
        with replaced_file(folder / CATALOG) as part:
            part.write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Catalog":
        """Read a catalog that `write` wrote."""
        values = json.loads((folder / CATALOG).read_text(encoding="utf-8"))
        return cls(
            vocabulary=GeneVocabulary.read(folder / GENES),
            categories={name: tuple(each) for name, each in values["categories"].items()},
            texts=tuple((a, b, c, d) for a, b, c, d in values["texts"]),
            compared=np.array(values["compared"], dtype=np.int64),
            inputs=tuple(InputSize(**each) for each in values["inputs"]),
        )


def make_catalog(surveys: Iterable[Survey], options: BuildOptions) -> Catalog:
    """Combine the surveys of all inputs, with one survey in memory at a time.

    Raises
    ------
    ValueError
        If no cell is kept, no gene has a median, or there are more genes than uint16 can hold.
    """
    histogram = ValueHistogram(len(token_genes()))
    n_measured = np.zeros(len(token_genes()), dtype=np.int64)
    names: dict[str, set[str]] = {name: set() for name in CATEGORIES}
    texts: set[tuple[str, str, str, str]] = set()
    fates = np.zeros(len(RowStatus), dtype=np.int64)
    unresolved: Counter[str] = Counter()
    inputs, measured = [], []
    for survey in surveys:
        histogram.add_packed(survey.places, survey.counts)
        n_measured[survey.measured] += 1
        if len(survey.measured):
            here = np.zeros(len(n_measured), dtype=bool)
            here[survey.measured] = True
            measured.append(np.packbits(here))
        for name in CATEGORIES:
            names[name].update(survey.columns[name].values)
        texts.update(_kept_texts(survey))
        fates += np.bincount(survey.fate, minlength=len(RowStatus))
        unresolved.update(survey.unresolved)
        inputs.append(
            InputSize(n_cells=survey.n_cells, is_by_gene=survey.is_by_gene, error=survey.error)
        )
    if inputs and all(each.error for each in inputs):
        raise ValueError(f"none of the {len(inputs)} inputs can be read: {inputs[0].error}")
    vocabulary = given_vocabulary(options)
    if vocabulary is None:
        if not fates[RowStatus.KEPT]:
            raise ValueError(f"no cell is kept: {_why_none_is_kept(fates, unresolved, options)}")
        vocabulary = _own_vocabulary(histogram, n_measured, options)
    if vocabulary.size > np.iinfo(np.uint16).max:
        raise ValueError(f"a corpus can have at most 65,532 genes, got {vocabulary.n_genes}")
    return Catalog(
        vocabulary=vocabulary,
        categories={name: tuple(sorted(values)) for name, values in names.items()},
        texts=tuple(sorted(texts)),
        compared=_compared(measured),
        inputs=tuple(inputs),
    )


def given_vocabulary(options: BuildOptions) -> GeneVocabulary | None:
    """Return the genes and medians given by the user, or None to compute them."""
    if options.genes:
        return GeneVocabulary.read(options.genes)
    if options.token_dictionary:
        return vocabulary_of(
            read_gene_numbers(Path(options.token_dictionary)),
            read_gene_numbers(Path(options.gene_medians)),
        )
    return None


def given_tokens(options: BuildOptions) -> dict[str, float]:
    """Return the tokens of inputs that are already tokenised, by Ensembl id."""
    if options.token_dictionary:
        return read_gene_numbers(Path(options.token_dictionary))
    vocabulary = GeneVocabulary.read(options.genes)
    return dict(zip(vocabulary.ensembl_ids, vocabulary.gene_tokens.tolist(), strict=True))


def _why_none_is_kept(fates: np.ndarray, unresolved: Counter[str], options: BuildOptions) -> str:
    remedy = (
        f"{option('columns', flag='--column')} label=NAME names another column, "
        f"{option('keep_unlabelled', True)} keeps such cells"
    )
    if fates[RowStatus.UNKNOWN_LABEL]:
        named = [f"{label!r} ({n:,} cells)" for label, n in unresolved.most_common(_MOST_NAMED)]
        if len(unresolved) > _MOST_NAMED:
            named.append(f"{len(unresolved) - _MOST_NAMED:,} more")
        return (
            f"the ontology does not know the labels {', '.join(named)}; labels are ids or names of"
            f" the Cell Ontology ({remedy})"
        )
    if fates[RowStatus.UNLABELLED]:
        columns = " or ".join(options.columns["label"])
        return f"are the cells labelled, in obs {columns}? ({remedy})"
    if fates[RowStatus.SECONDARY]:
        return f"none is primary data ({option('keep_secondary', True)} keeps such cells)"
    return f"the inputs have none, or none that {option('obs_filter')} takes"


def _own_vocabulary(
    histogram: ValueHistogram, n_measured: np.ndarray, options: BuildOptions
) -> GeneVocabulary:
    if not n_measured.any():
        raise ValueError(
            "no input has a known gene: var must name human genes, as Ensembl ids or symbols"
        )
    kept = (histogram.n_values() >= options.min_observations) & (n_measured >= options.min_inputs)
    if not kept.any():
        raise ValueError(
            f"no gene is measured in {options.min_inputs} inputs and seen in"
            f" {options.min_observations} of the sampled cells that are kept;"
            f" {option('min_inputs')} and {option('min_observations')} take fewer"
        )
    table = GeneTable.bundled()
    genes = token_genes()[kept].tolist()
    return GeneVocabulary(
        ensembl_ids=tuple(genes),
        symbols=tuple(table.symbol(each) for each in genes),
        medians=np.maximum(histogram.medians()[kept], _MIN_MEDIAN),
    )


def _compared(measured: Sequence[np.ndarray]) -> np.ndarray:
    """Choose the genes by which duplicates are found; `measured` has packed bits per input."""
    if not measured:
        return np.empty(0, dtype=np.int64)
    sizes = np.array([np.count_nonzero(np.unpackbits(each)) for each in measured])
    wide = sizes >= _WIDE_SHARE * np.median(sizes)
    common = np.bitwise_and.reduce(np.stack(measured)[wide])
    return np.flatnonzero(np.unpackbits(common))


def _kept_texts(survey: Survey) -> set[tuple[str, str, str, str]]:
    kept = np.flatnonzero((survey.fate == RowStatus.KEPT) & (survey.columns["term"].codes >= 0))
    columns = {name: survey.columns[name].take(kept) for name in _TEXT}
    return set(_combinations(columns)[0]) if len(kept) else set()


def _combinations(
    columns: Mapping[str, Column],
) -> tuple[list[tuple[str, str, str, str]], np.ndarray]:
    """Return the distinct (term, tissue, disease, stage), and each cell's index into them."""
    place = np.zeros(len(columns[_TEXT[0]].codes), dtype=np.int64)
    for name in _TEXT:  # small integers sort much faster than rows
        n_codes = 1 + len(columns[name].values)
        _, place = np.unique(place * n_codes + columns[name].codes + 1, return_inverse=True)
    first = np.unique(place, return_index=True)[1]
    a, b, c, d = (
        [
            (*columns[name].values, "")[code] for code in columns[name].codes[first]
        ]  # -1: missing, ''
        for name in _TEXT
    )
    return list(zip(a, b, c, d, strict=True)), place


def _describe(text: Sequence[str], ontology: Ontology) -> str:
    aspects = {_ASPECTS[name]: value for name, value in zip(_TEXT, text, strict=True)}
    known = {each: value for each, value in aspects.items() if _is_known(each, value, ontology)}
    return describe_aspects(known, ontologies={"CL": ontology})


def _is_known(aspect: str, value: str, ontology: Ontology) -> bool:
    """Tell whether a value is free text, or an id of a bundled ontology."""
    if not _ID.fullmatch(value):
        return True
    prefix = value.split(":")[0]
    if prefix not in ASPECTS[aspect]:
        return False
    return value in (ontology if prefix == "CL" else Ontology.bundled(prefix)).terms

"""Parts of the recipe that the ablation removes, one at a time."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.training.runs import RECIPE
from pretrain.recipe.cell_config import Source
from pretrain.recipe.recipe_file import find_recipe, read_recipe

SourceFilter = Callable[[Source, str], bool]  # source and the licence of one of its files


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the recipe, a row of the table.

    Attributes
    ----------
    key: name of its run folders
    title: title in the table
    overrides: changed recipe values
    keeps: filter of the source files, if not all are kept
    """

    key: str
    title: str
    overrides: tuple[str, ...] = ()
    keeps: SourceFilter | None = None

    def values(self, corpus: Path) -> tuple[str, ...]:
        """Return the overrides, including those of the sources."""
        if self.keeps is None:
            return self.overrides
        return (*self.overrides, f"sources={json.dumps(kept_sources(corpus, self.keeps))}")


def has_licence(_source: Source, licence: str) -> bool:
    """Tell whether the manifest names a licence for a file's repository."""
    return not licence.lower().startswith("none stated")


def is_cells(source: Source, _licence: str) -> bool:
    """Tell whether a file holds single cells."""
    return source.kind == "cells"


def is_profiles(source: Source, _licence: str) -> bool:
    """Tell whether a file holds profiles."""
    return source.kind == "profiles"


PARTS = (
    Part(key="full", title="full recipe"),
    Part(
        key="pairs",
        title="in-batch pairs, no ontology contrast",
        overrides=("losses.ontology=0", "losses.cell_text=1"),
    ),
    Part(
        key="ancestors",
        title="ancestors as partial positives",
        overrides=("losses.ancestor_decay=0.2",),
    ),
    Part(
        key="subtree",
        title="subtree form of the contrast",
        overrides=("losses.ontology_form=subtree", "losses.ancestor_decay=0.2"),
    ),
    Part(
        key="dataless",
        title="no contrast with types that lack data",
        overrides=("text.candidates=corpus",),
    ),
    Part(
        key="subset",
        title="no subsets of measured genes",
        overrides=("augmentation.subset=0",),
    ),
    Part(key="cells", title="no profiles, cells only", keeps=is_cells),
    Part(key="licence", title="no sources without licence", keeps=has_licence),
    Part(
        key="wordings",
        title="no text variants, definition only",
        overrides=("text.definition=1", "text.max_synonyms=0", "text.aspect_drop=1"),
    ),
    Part(
        key="svd",
        title="no SVD start of gene embeddings",
        overrides=("model.init_gene_embeddings=random",),
    ),
    Part(
        key="balance",
        title="no balance, no cap per study",
        overrides=("balance.by_type=false", "balance.study_share=1"),
    ),
    Part(key="genes256", title="256 genes, not 768", overrides=("model.max_genes=256",)),
    Part(key="profiles", title="no single cells, profiles only", keeps=is_profiles),
    Part(
        key="thinning",
        title="no thinning, no gene dropout",
        overrides=("augmentation.thin=0", "augmentation.gene_dropout=0"),
    ),
    Part(key="tokens", title="no dropping of tokens", overrides=("augmentation.keep_tokens=1",)),
    Part(
        key="more",
        title="with cell-cell and matching losses",
        overrides=("losses.cell_cell=0.1", "losses.matching=0.2"),
    ),
)


def kept_sources(corpus: Path, keeps: SourceFilter) -> list[dict[str, object]]:
    """Return the recipe's sources with only the files that pass `keeps`."""
    manifest = pd.read_csv(corpus / "manifest.tsv", sep="\t", keep_default_na=False)
    licences = dict(zip(manifest["name"], manifest["licence"], strict=True))
    kept: list[dict[str, object]] = []
    for source in read_recipe(find_recipe(Path(RECIPE))).sources:
        files = [file for file in source.files if keeps(source, str(licences[Path(file).stem]))]
        if files:
            kept.append({"files": files, "kind": source.kind, "scale": source.scale})
    return kept

"""A pre-tokenised corpus on disk: shards of packed tokens, gene vocabulary and manifest."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from langcell.genes.vocabulary import GeneVocabulary
from langcell.runtime.digest import sha256_of
from langcell.runtime.output_file import replaced_file
from langcell.runtime.threads import thread_count
from langcell.tokens.packed_cells import PackedCells
from langcell.tokens.shard_file import map_tensors, open_shard

MANIFEST = "manifest.json"
GENES, DESCRIPTIONS, MEASURED = "genes.tsv", "descriptions.tsv", "measured.safetensors"
FORMAT, VERSION = "langcell corpus", 1
DESCRIPTION_COLUMNS = ("term_id", "tissue", "disease", "stage", "text")
_TO_SPACES = str.maketrans("\t\r\n", "   ")


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """Manifest entry of a file: its size in bytes and its SHA-256."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardSize:
    """Manifest entry of a shard: its numbers of cells and tokens."""

    name: str
    n_cells: int
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a corpus. It is written last, so a corpus with a manifest is complete.

    Attributes
    ----------
    max_genes : maximum number of genes per cell.
    seed : seed of the order of the cells.
    shards : shards in order; cells are numbered through all shards.
    files : all files except the manifest, by name.
    categories : values of the codes of each column: term, study, donor, tissue, assay, file.
    pairs : number of cells of each (term, study), as (term, study, n_cells).
    built : how it was built, for information only.
    """

    max_genes: int
    seed: int
    shards: tuple[ShardSize, ...]
    files: Mapping[str, CorpusFile]
    categories: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[int, int, int], ...]
    built: Mapping[str, Any]

    @property
    def n_cells(self) -> int:
        """Count the cells."""
        return sum(shard.n_cells for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        """Count the tokens."""
        return sum(shard.n_tokens for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write manifest.json atomically."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "n_cells": self.n_cells,
            "n_tokens": self.n_tokens,
            "max_genes": self.max_genes,
            "seed": self.seed,
            "shards": [vars(shard) for shard in self.shards],
            "files": {name: vars(file) for name, file in sorted(self.files.items())},
            "categories": self.categories,
            "pairs": self.pairs,
            "built": self.built,
        }
        with replaced_file(folder / MANIFEST) as part:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read manifest.json.

        Raises
        ------
        FileNotFoundError, ValueError
            If the folder has no complete corpus, or one of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no complete corpus: there is no {MANIFEST}; build it with"
                " langcell corpus build"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if (values["format"], values["version"]) != (FORMAT, VERSION):
                raise ValueError(f"it says {values['format']!r}, version {values['version']}")
            return cls(
                max_genes=values["max_genes"],
                seed=values["seed"],
                shards=tuple(ShardSize(**shard) for shard in values["shards"]),
                files={name: CorpusFile(**file) for name, file in values["files"].items()},
                categories={name: tuple(each) for name, each in values["categories"].items()},
                pairs=tuple((term, study, n) for term, study, n in values["pairs"]),
                built=values["built"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a manifest of version {VERSION}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Description:
    """A distinct combination of cell type, tissue, disease and stage, and its text.

    The aspects are ids or free text as in the source files, '' if unknown.
    """

    term_id: str
    tissue: str
    disease: str
    stage: str
    text: str


class TokenCorpus:
    """A pre-tokenised corpus; cells are numbered through all shards in order.

    Parameters
    ----------
    folder
        Output folder of `langcell corpus build`.
    verify
        Read every file once and compare its SHA-256; otherwise compare only the sizes.

    Raises
    ------
    FileNotFoundError, ValueError
        If the corpus is incomplete, or files are missing, cut short or corrupt; they are named.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder)
        if damages := find_damage(folder, self.manifest, verify=verify):
            more = f" (and {len(damages) - 1} more files)" if len(damages) > 1 else ""
            raise ValueError(f"{damages[0]}{more}; see langcell corpus check {folder}")
        sizes = [shard.n_cells for shard in self.manifest.shards]
        self.starts = np.cumsum([0, *sizes])  # (n_shards + 1,)
        self._shards: dict[int, PackedCells] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the shards itself; pickled maps would be copies of the data.
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        return self.manifest.n_cells

    def shard(self, number: int) -> PackedCells:
        """Memory-map a shard; cached."""
        if number not in self._shards:
            self._shards[number] = open_shard(self.folder / self.manifest.shards[number].name)
        return self._shards[number]

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes of the tokens, with the medians used for ranking."""
        return GeneVocabulary.read(self.folder / GENES)

    @cached_property
    def measured(self) -> np.ndarray:
        """Genes measured in each file, bool, shape (n_files, n_genes), in token order."""
        packed = map_tensors(self.folder / MEASURED)["measured"]
        return np.unpackbits(packed, axis=1, count=self.vocabulary.n_genes).astype(bool)

    @cached_property
    def descriptions(self) -> tuple[Description, ...]:
        """The texts of the cells; the column `text` of a shard holds indices into them."""
        lines = (self.folder / DESCRIPTIONS).read_text(encoding="utf-8").split("\n")[1:-1]
        return tuple(
            Description(**dict(zip(DESCRIPTION_COLUMNS, line.split("\t"), strict=True)))
            for line in lines
        )


def write_descriptions(path: Path, descriptions: tuple[Description, ...]) -> None:
    """Write the table of texts."""
    lines = ["\t".join(DESCRIPTION_COLUMNS)]
    for each in descriptions:
        # Replace tabs and line breaks in labels, which would break the table.
        values = [getattr(each, name).translate(_TO_SPACES) for name in DESCRIPTION_COLUMNS]
        lines.append("\t".join(values))
    with replaced_file(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def file_entry(path: Path) -> CorpusFile:
    """Return the manifest entry of a file."""
    return CorpusFile(n_bytes=path.stat().st_size, sha256=sha256_of(path))


def find_damage(folder: Path, manifest: Manifest, *, verify: bool = True) -> list[str]:
    """Return one line per file that does not match the manifest; empty if all files match."""

    def look(name: str) -> str:
        path, wanted = folder / name, manifest.files[name]
        if not path.is_file():
            return f"{path} is missing"
        n_bytes = path.stat().st_size
        if n_bytes != wanted.n_bytes:
            cut = "cut short" if n_bytes < wanted.n_bytes else "too long"
            return f"{path} has {n_bytes:,} bytes, expected {wanted.n_bytes:,}: it is {cut}"
        if verify and sha256_of(path) != wanted.sha256:
            return f"{path} is corrupt: its sha256 differs from the manifest"
        return ""

    with ThreadPoolExecutor(thread_count()) as threads:  # hashing releases the GIL
        return [damage for damage in threads.map(look, sorted(manifest.files)) if damage]

"""Table of all training texts, and their encoding by a frozen text tower, computed once."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from langcell.model.langcell import LangCell
from langcell.nn.bert import inference
from langcell.nn.features import TextFeatures
from langcell.runtime.output_file import replaced_file
from ontology.graph import Ontology
from pretrain.cells.cell_types import CellTypes
from pretrain.recipe.config import Text
from pretrain.texts.label_texts import bare_texts

_ASPECT_NAMES = ("tissue", "disease", "development stage")
_PREFIXES = ("UBERON", "MONDO", "HsapDv")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTable:
    """The texts of the training types.

    Attributes
    ----------
    texts
        Distinct texts.
    term
        Type that each text describes, shape (n_texts,).
    aspects
        Codes of the tissue, disease and stage that each text names, -1 for none, (n_texts, 3).
    bare
        Texts of each type without these aspects; the template with the definition is first.
    full
        Texts with aspects by (type, aspect combination of the corpus).
    """

    texts: tuple[str, ...]
    term: np.ndarray
    aspects: np.ndarray
    bare: tuple[tuple[int, ...], ...]
    full: dict[tuple[int, int], tuple[int, ...]]

    def choose(
        self, terms: np.ndarray, aspect: np.ndarray, settings: Text, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one text per cell, shape (n_cells,).

        The template with the definition has probability `definition`, the other wordings share the
        rest. Aspects are named with probability 1 - `aspect_drop`.
        """
        chosen = np.empty(len(terms), dtype=np.int64)
        for cell, (one, other) in enumerate(zip(terms.tolist(), aspect.tolist(), strict=True)):
            u, v, w = rng.random(3)  # always three numbers, so that draws of cells are independent
            full = self.full.get((one, other), ())
            bare = self.bare[one]
            if full and u >= settings.aspect_drop:
                chosen[cell] = full[int(w * len(full))]
            elif v < settings.definition or len(bare) == 1:
                chosen[cell] = bare[0]
            else:
                chosen[cell] = bare[1 + int(w * (len(bare) - 1))]
        return chosen


def aspect_codes(types: CellTypes) -> np.ndarray:
    """Return the code of each aspect value, -1 where unknown, int64, (n_combinations, 3)."""
    codes = np.full((len(types.aspects), len(_ASPECT_NAMES)), -1, dtype=np.int64)
    for column in range(len(_ASPECT_NAMES)):
        values = sorted({aspect[column] for aspect in types.aspects} - {""})
        for row, aspect in enumerate(types.aspects):
            if aspect[column]:
                codes[row, column] = values.index(aspect[column])
    return codes


def build_text_table(types: CellTypes, ontology: Ontology, settings: Text) -> TextTable:
    """Collect the texts of every type of the corpus, without and with aspects."""
    codes = aspect_codes(types)
    names = [_aspect_names(aspect) for aspect in types.aspects]
    texts: dict[str, int] = {}
    rows: list[tuple[int, tuple[int, ...]]] = []

    def add(text: str, term: int, aspects: tuple[int, ...]) -> int:
        # A wording that two types share belongs to the first only.
        if text not in texts:
            texts[text] = len(texts)
            rows.append((term, aspects))
        return texts[text]

    none = (-1,) * len(_ASPECT_NAMES)
    bare = []
    for term, term_id in enumerate(types.term_ids):
        variants = bare_texts(ontology, term_id, settings.max_synonyms)
        ids = [add(text, term, none) for text in variants]
        bare.append(tuple(each for each in ids if rows[each][0] == term))
    full = {}
    for term, aspect in types.pairs:
        added = []
        for kept in ((0,), (0, 2), (0, 1, 2)):  # tissue; tissue and stage; all three
            words = "".join(names[aspect][i] for i in kept)
            code = tuple(
                int(codes[aspect, i]) if i in kept and names[aspect][i] else -1 for i in range(3)
            )
            if words:
                name = ontology.terms[types.term_ids[term]].name
                text = f"cell type: {name}. {words}"
                added.append(add(text, term, code))
        if added:
            full[term, aspect] = tuple(dict.fromkeys(added))
    return TextTable(
        texts=tuple(texts),
        term=np.array([term for term, _ in rows]),
        aspects=np.array([aspects for _, aspects in rows]),
        bare=tuple(bare),
        full=full,
    )


def pool_cached(model: LangCell, texts: Sequence[str]) -> Tensor:
    """Return the pooled texts before the projection, (n_texts, hidden), cached on disk.

    One cache file per tower holds every text that was ever pooled, so that later runs need not
    encode it again.
    """
    config = model.config.text
    tower = json.dumps([config.tower, config.revision, config.sha256, config.max_tokens])
    path = _cache_folder() / f"{_digest(tower)}.safetensors"
    known = load_file(path) if path.is_file() else {}
    digests = [_digest(text) for text in texts]
    missing = {
        digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known
    }
    if missing:
        rows = torch.from_numpy(model.pool_texts(list(missing.values())))
        known |= {digest: row.clone() for digest, row in zip(missing, rows, strict=True)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as part:
            save_file(known, part)
    return torch.stack([known[digest] for digest in digests])


def encode_templates(
    model: LangCell, texts: Sequence[str], *, batch_size: int = 64
) -> TextFeatures:
    """Return the token states of texts for the matching head, float16, padded to the longest."""
    tower = model.text_tower()
    input_ids, mask = model.tokenize_texts(texts)
    states = torch.empty((*input_ids.shape, model.config.text.hidden_size), dtype=torch.float16)
    with inference(tower):
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            width = int(mask[rows].sum(dim=1).max())
            states[rows, :width] = tower(input_ids[rows, :width], mask[rows, :width]).half()
            states[rows, width:] = 0
    empty = torch.empty(0)
    return TextFeatures(
        input_ids=input_ids, attention_mask=mask, states=states, pooled=empty, features=empty
    )


def _aspect_names(aspect: tuple[str, str, str]) -> list[str]:
    """Return the wording of each aspect; ids become names without definitions, to keep texts short."""
    words = []
    for name, prefix, value in zip(_ASPECT_NAMES, _PREFIXES, aspect, strict=True):
        if value.startswith(prefix + ":"):
            terms = Ontology.bundled(prefix).terms
            value = terms[value].name if value in terms else ""
        words.append(f"{name}: {value}. " if value else "")
    return words


def _cache_folder() -> Path:
    if named := os.environ.get("LANGCELL_CACHE"):
        return Path(named) / "texts"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "langcell" / "texts"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

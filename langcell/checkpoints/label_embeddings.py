"""Pooled text embeddings of ontology terms, stored in a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LabelEmbeddings:
    """Ontology terms, their texts, and the pooled text embeddings before the projection.

    Attributes
    ----------
    term_ids, texts
        One id and one description per label.
    pooled
        float16, shape (n_labels, text hidden size).
    release
        Ontology release of the texts.
    """

    term_ids: tuple[str, ...]
    texts: tuple[str, ...]
    pooled: np.ndarray
    release: str

    def __post_init__(self) -> None:
        if not len(self.term_ids) == len(self.texts) == len(self.pooled):
            raise ValueError(
                f"label embeddings need one text and one row per term, got {len(self.term_ids)} "
                f"terms, {len(self.texts)} texts and {len(self.pooled)} rows"
            )

    def __repr__(self) -> str:
        return f"LabelEmbeddings({len(self.term_ids):,} terms, release {self.release})"

    def write(self, folder: Path) -> None:
        """Write labels.safetensors and labels.tsv into `folder`."""
        save_file(
            {"pooled": np.ascontiguousarray(self.pooled, dtype=np.float16)},
            folder / "labels.safetensors",
            metadata={"ontology_release": self.release},
        )
        lines = [f"{term}\t{text}\n" for term, text in zip(self.term_ids, self.texts, strict=True)]
        if any(line.count("\t") != 1 or line.count("\n") != 1 for line in lines):
            raise ValueError("label ids and texts must not contain tabs or line breaks")
        (folder / "labels.tsv").write_text(
            "term_id\ttext\n" + "".join(lines), encoding="utf-8", newline="\n"
        )

    @classmethod
    def read(cls, folder: Path) -> "LabelEmbeddings":
        """Read labels.safetensors and labels.tsv from `folder`.

        Raises
        ------
        ValueError
            If the two files do not fit each other or are damaged.
        """
        path = folder / "labels.safetensors"
        try:
            with safe_open(path, "np") as file:
                pooled = file.get_tensor("pooled")
                release = (file.metadata() or {}).get("ontology_release", "")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        rows = (folder / "labels.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
        pairs = [row.split("\t", 1) for row in rows]
        try:
            return cls(
                term_ids=tuple(pair[0] for pair in pairs),
                texts=tuple(pair[1] for pair in pairs),
                pooled=pooled,
                release=release,
            )
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{folder / 'labels.tsv'} does not fit {path.name}: {error}"
            ) from error

"""Read the gene dictionaries of LangCell and Geneformer: a number for each Ensembl id."""

import json
from pathlib import Path
from typing import Any

from langcell.genes.safe_pickle import read_plain_pickle


def read_dictionary(path: Path) -> dict[str, float]:
    """Read a number for each name from a JSON object, a two-column TSV or a pickled dict.

    Names are Ensembl ids and special tokens, unchanged. A pickle is read without running its code.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file does not exist or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"gene dictionary {path} does not exist")
    try:
        values = _parse(path.read_bytes(), path.suffix)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        return {str(key): float(value) for key, value in values.items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: expected a dictionary from Ensembl id to number, as JSON, a two-column TSV or"
            f" a pickle of plain values; {error}"
        ) from error


def _parse(content: bytes, suffix: str) -> Any:
    if suffix in (".pkl", ".pickle"):
        return read_plain_pickle(content)
    text = content.decode("utf-8")
    if suffix == ".json":
        return json.loads(text)
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError("a line does not have two columns")
    return dict(rows[1:] if _is_header(rows[0]) else rows)


def _is_header(row: list[str]) -> bool:
    try:
        float(row[1])
    except ValueError:
        return True
    return False

"""Print tables, or write them atomically to .csv or .parquet."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from langcell.runtime.output_file import check_output, replaced_file
from zeroshot.results.writers import TABLES

if TYPE_CHECKING:
    import pandas as pd

_DIGITS = "%.6g"


def check_table(target: Path, *, overwrite: bool) -> None:
    """Raise if a table cannot be written, as in `langcell.runtime.output_file.check_output`."""
    check_output(target, suffixes=TABLES, overwrite=overwrite)


def write_table(table: "pd.DataFrame", target: Path) -> None:
    """Write a table to .csv or .parquet, without its index."""
    with replaced_file(target) as temporary:
        if target.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, float_format=_DIGITS, lineterminator="\n")


def print_table(table: "pd.DataFrame") -> None:
    """Print a table to stdout as tab-separated values."""
    table.to_csv(sys.stdout, sep="\t", index=False, float_format=_DIGITS, lineterminator="\n")

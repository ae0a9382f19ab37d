"""How results show themselves in Python and in notebooks: as a short table."""

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 10


class ShortTable:
    """A result whose repr is a line and the first rows of its summary."""

    def heading(self) -> str:
        """Return one line that says what the result is."""
        raise NotImplementedError

    def summary(self) -> "pd.DataFrame":
        """Return the result as a table that a reader takes in at a glance."""
        raise NotImplementedError

    def __repr__(self) -> str:
        table, rest = self._shown()
        return f"{self.heading()}\n{table.to_string(index=False)}{rest}"

    def _repr_html_(self) -> str:
        table, rest = self._shown()
        return f"<p>{escape(self.heading())}</p>{table.to_html(index=False)}{escape(rest)}"

    def _shown(self) -> "tuple[pd.DataFrame, str]":
        table = self.summary()
        n_left = len(table) - _ROWS
        return table.head(_ROWS), f"\n... and {n_left} more" if n_left > 0 else ""

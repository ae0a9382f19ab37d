"""Table of the calls that decoders changed, for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from zeroshot.decide.decoding import Decoded

_MOVES_SHOWN = 5
_CLUSTERS_SHOWN = 15


def decoding_table(decoded: Sequence[Decoded]) -> Table:
    """Return the changes of each decoder, and the calls of the largest clusters."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for each in decoded:
        report = each.report
        n_changed = report["n_changed"]
        table.add_row(
            each.decoder, f"{n_changed:>8,}  {report['share_changed']:>6.1%}  calls changed"
        )
        for move in report["moves"].head(_MOVES_SHOWN).itertuples(index=False, name=None):
            before, after, n_cells = move
            table.add_row("", f"{n_cells:>8,}  {n_cells / n_changed:>6.1%}  {before} -> {after}")
        if "calls" in report:
            _add_clusters(table, each)
    return table


def _add_clusters(table: Table, decoded: Decoded) -> None:
    calls = decoded.report["calls"].sort_values("n_cells", ascending=False, kind="stable")
    table.add_row(
        "clusters", "   cells  agree   call (confidence); best single type, and runner-up"
    )
    for call in calls.head(_CLUSTERS_SHOWN).itertuples(index=False):
        table.add_row(
            f"  {call.cluster}",
            f"{call.n_cells:>8,}  {call.agreement:>6.1%}  {call.label} ({call.confidence:.2f}); "
            f"{call.leaf_label}, {call.runner_up}",
        )
    if rest := len(calls) - _CLUSTERS_SHOWN:
        if rest > 0:
            table.add_row("", f"{rest:>8,}  more clusters, all in uns")

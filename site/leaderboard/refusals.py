"""The table of files that were refused, as two pages show it."""

from leaderboard.format import count_of
from leaderboard.pieces import Code
from leaderboard.results import View
from leaderboard.tables import Cell, Head, Row, Table


def refusals(view: View) -> Table:
    """Return every refused file with its reason."""
    return Table(
        id="refused-table",
        caption=f"{count_of(len(view.table.refused), 'file')} refused",
        heads=(Head(title="Path"), Head(title="Reason")),
        rows=tuple(Row((Cell((Code(r.path),)), Cell((r.reason,)))) for r in view.table.refused),
        empty="Every file below results/ was accepted.",
        show_caption=False,
        sortable=False,
    )

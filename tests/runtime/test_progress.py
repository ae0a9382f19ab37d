"""Plain lines of progress: their rate, and a second pass over cells."""

from langcell.runtime import progress


def test_a_second_pass_has_a_rate_of_its_own(monkeypatch, capsys):
    now = iter([0.0, 20.0, 100.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.cell_progress("learning") as show:
        show(0, 100)
        show(100, 100)
        show(10, 400)  # fewer than before: they are read again
        show(50, 400)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "learning: 100 of 100 cells, 5 cells/s, 0:00:00 left",
        "learning: 50 of 400 cells, 2 cells/s, 0:02:55 left",
    ]

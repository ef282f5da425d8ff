"""A small table that reads the same in a notebook, on a page without a kernel and in plain text."""

from .panels.parts import plain_table


class Table:
    """Rows under a head, with a caption that says what to see. Cells are shown with `str`.

    Raises `ValueError` if a row and the head differ in length.

    >>> Table(("format", "max"), [("FP16", 65504.0)], "Where FP16 ends")
    Where FP16 ends
    format  max
    FP16    65504.0
    """

    def __init__(self, head, rows, caption):
        self.head, self.caption = tuple(map(str, head)), caption
        self.rows = [tuple(map(str, row)) for row in rows]
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"the row {row} has {len(row)} cells, the head {len(self.head)}")

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (self.head, *self.rows))
        return "\n".join([self.caption, *lines])

    def _repr_html_(self):
        return plain_table(self.head, self.rows, self.caption)

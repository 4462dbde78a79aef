"""The base of what shows lines that a person may mark with the mouse."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip


class LinesView(ScrollView):
    """A subclass gives the line at a place of the view, which is drawn, and says where in the text a click on it is.

    Where that is stands in the styles of a line, but only for who asks, not while it is drawn: every line would have
    styles of its own, and what is drawn stays in caches of 16,384 styles."""

    _is_drawing = False

    def render_lines(self, crop: Region) -> list[Strip]:
        self._is_drawing = True
        try:
            return super().render_lines(crop)
        finally:
            self._is_drawing = False

    def marked(self, strip: Strip, line: int) -> Strip:
        """A strip that shows this line of the text, with what is selected of it."""
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(line)) is not None:
            start, end = span[0], strip.cell_length if span[1] == -1 else span[1]
            style = self.screen.get_component_rich_style("screen--selection")
            style = Style(reverse=True) if self.app.no_color else style
            chosen = Strip(Segment.apply_style(strip.crop(start, end), post_style=style))
            strip = Strip.join([strip.crop(0, start), chosen, strip.crop(end)])
        return strip if self._is_drawing else strip.apply_offsets(0, line)

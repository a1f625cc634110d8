"""Pages and pictures from plain values: no torch, no models, and of elastify only the nouns of `_ir`.

`wiring` arranges the graph of a search space (`space(model).graph()`) as rows of modules and lines of axes; `picture`
draws that as SVG, and `page` puts it on an HTML page with a table. What they make is self-contained text: no scripts,
nothing fetched, light and dark, with titles for screen readers.
"""

from elastify._report.page import wiring_page
from elastify._report.picture import wiring_picture
from elastify._report.wiring import Wiring, wiring

__all__ = ["Wiring", "wiring", "wiring_page", "wiring_picture"]

"""Figures, one per function, as SVG text: no library is needed to draw them, and any browser shows them."""

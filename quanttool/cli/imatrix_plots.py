"""--plots of quanttool imatrix: figures of what was measured."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import atomic_output
from .console import note

if TYPE_CHECKING:
    from ..imatrix import Imatrix
    from ..imatrix.similarity import Similarity


def write_plots(folder: str, imatrix: "Imatrix", similarity: "Similarity | None") -> None:
    """Write importance.svg, experts.svg if there are any, similarity.svg if it was measured."""
    from ..imatrix.statistics import expert_hits, weight_statistics
    from ..plots.importance import expert_map, importance_map, layer_similarity

    weights = [w for w in weight_statistics(imatrix) if w.layer is not None]
    figures = {"importance": importance_map({(w.layer, w.kind): w.mean for w in weights})}
    if hits := expert_hits(imatrix):
        figures["experts"] = expert_map({layer.layer: layer.hits for layer in hits})
    if similarity is not None:
        layers = similarity.layers()
        parts = {"layer": "whole", "attention": "attention", "ffn": "ffn"}
        cosines = {
            name: [(x.layer, getattr(x, part)) for x in layers if getattr(x, part) is not None]
            for name, part in parts.items()
        }
        figures["similarity"] = layer_similarity(cosines)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder}: is a file; --plots wants a folder") from None
    for name, svg in figures.items():
        with atomic_output(Path(folder) / f"{name}.svg") as file:
            file.write(svg.encode())
    note(f"{folder}: {', '.join(f'{name}.svg' for name in figures)}")

"""Quality of models over their size."""

from collections.abc import Mapping

from .svg import HEIGHT, WIDTH, line_chart


def quality_over_size(
    bpw: Mapping[str, float], ppl: Mapping[str, float], kld: Mapping[str, float], ppl_base: float | None = None
) -> str:
    """Mean divergence (logarithmic) above perplexity, each over bits per weight, with the models' names.

    kld:       may lack models; those that are 0 cannot be shown on a logarithmic axis
    ppl_base:  drawn as a line across

    Returns SVG.
    """
    charts = []
    positive = {name: value for name, value in kld.items() if value > 0}
    if positive:
        charts.append(_chart(bpw, positive, "mean KLD, nats", log_y=True))
    charts.append(_chart(bpw, ppl, "perplexity", level=ppl_base))
    placed = [chart.replace("<svg ", f'<svg y="{i * HEIGHT}" ', 1) for i, chart in enumerate(charts)]
    height = HEIGHT * len(charts)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(placed)}</svg>\n'


def _chart(
    bpw: Mapping[str, float], values: Mapping[str, float], label: str, log_y: bool = False, level: float | None = None
) -> str:
    points = {name: (bpw[name], value) for name, value in values.items()}
    places = [x for x, _ in points.values()]
    lines = {} if level is None else {"base model": [(min(places), level), (max(places), level)]}
    return line_chart(lines, "bits per weight", label, log_y=log_y, marks=points)

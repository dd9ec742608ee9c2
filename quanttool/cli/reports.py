"""What llama-perplexity prints, in its words and digits, so that people's scripts read ours as well."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluate import Divergence, Estimate, Perplexity

CHUNK_HEADER = (
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS"
    "            Same top p"
)
QUANTILE_NAMES = {1.0: "Maximum", 0.5: "Median ", 0.0: "Minimum"}
FEWEST_FOR_QUANTILES = 100  # scored tokens; fewer say nothing about the tails


def running_perplexity(perplexity: "Perplexity", first: int) -> str:
    """[i]x.xxxx, for every chunk from number `first` (counted from 0) on."""
    return "".join(f"[{i + 1}]{value:.4f}," for i, value in enumerate(perplexity.running()) if i >= first)


def final_estimate(perplexity: "Perplexity") -> str:
    value, uncertainty = perplexity.estimate
    return f"Final estimate: PPL = {value:.4f} +/- {uncertainty:.5f}"


def chunk_line(divergence: "Divergence", chunk: int) -> str:
    """Statistics over the first `chunk` chunks, one line."""
    so_far = divergence.first_chunks(chunk)
    rms, same = so_far.rms_delta_p, so_far.same_top_share
    parts = [
        "{:9.4f} ± {:9.4f}".format(*so_far.ppl),
        "{:10.5f} ± {:10.5f}".format(*so_far.log_ppl_ratio),
        "{:10.5f} ± {:10.5f}".format(*so_far.mean_kld),
        f"{100 * rms.value:6.3f} ± {100 * rms.uncertainty:6.3f} %",
        f"{100 * same.value:6.3f} ± {100 * same.uncertainty:6.3f} %",
    ]
    return f"{chunk:4d}    " + "    ".join(parts)


def statistics(divergence: "Divergence") -> str:
    """The blocks that follow the table; empty for too few tokens."""
    if divergence.kld.size < FEWEST_FOR_QUANTILES:
        return ""
    d = divergence
    lines = [
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {_plain(d.ppl)}",
        f"Mean PPL(base)                : {_plain(d.ppl_base)}",
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * d.log_ppl_correlation:6.2f}%",
        f"Mean ln(PPL(Q)/PPL(base))     : {_plain(d.log_ppl_ratio)}",
        f"Mean PPL(Q)/PPL(base)         : {_plain(d.ppl_ratio)}",
        f"Mean PPL(Q)-PPL(base)         : {_plain(d.ppl_difference)}",
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {_plain(d.mean_kld)}",
        *(f"{_quantile_name(f)} KLD: {value:10.6f}" for f, value in d.kld_quantiles().items()),
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {_percent(d.mean_delta_p)}",
        *(f"{_quantile_name(f)} Δp: {100 * value:6.3f}%" for f, value in d.delta_p_quantiles().items()),
        f"RMS Δp    : {_percent(d.rms_delta_p)}",
        f"Same top p: {_percent(d.same_top_share)}",
    ]
    return "\n".join(lines)


def _plain(estimate: "Estimate") -> str:
    return f"{estimate.value:10.6f} ± {estimate.uncertainty:10.6f}"


def _percent(estimate: "Estimate") -> str:
    return f"{100 * estimate.value:6.3f} ± {100 * estimate.uncertainty:5.3f} %"


def _quantile_name(fraction: float) -> str:
    return QUANTILE_NAMES.get(fraction) or f"{100 * fraction:4.1f}%  "

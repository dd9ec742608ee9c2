"""Speeds of types from benchmarks."""

import pytest

from quanttool.container import TensorInfo
from quanttool.errors import FileFormatError
from quanttool.ggml_types import ggml_type
from quanttool.optimize.speed import read_speeds, seconds_of

LLAMA_BENCH = """build_commit,model_type,model_n_params,n_prompt,n_gen,avg_ts
"abc","llama 1B Q4_K - Medium","1000","512","0","900.0"
"abc","llama 1B Q4_K - Medium","1000","0","128","50.0"
"abc","llama 1B Q8_0","1000","0","128","25.0"
"""


def test_both_forms_are_read(tmp_path):
    path = tmp_path / "bench.csv"
    path.write_text(LLAMA_BENCH)
    assert read_speeds(path) == {"Q4_K": 50.0, "Q8_0": 25.0}
    path.write_text("type,tokens_per_second\nq4_k,50\niq4_ks,60\n")
    assert read_speeds(path) == {"Q4_K": 50.0, "IQ4_KS": 60.0}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match="tokens_per_second"):
        read_speeds(path)


def test_a_pure_model_runs_at_the_speed_that_was_measured():
    kind = ggml_type("F32")
    tensors = [
        TensorInfo("blk.0.attn_q.weight", kind, (256, 256)),
        TensorInfo("blk.0.ffn_up_exps.weight", kind, (256, 512, 8)),
        TensorInfo("blk.0.attn_norm.weight", kind, (256,)),
    ]
    use = seconds_of({"Q4_K": 50.0, "Q8_0": 25.0}, tensors, used_share=0.25)
    for name, speed in (("Q4_K", 50.0), ("Q8_0", 25.0)):
        total = sum(use(tensor, ggml_type(name)) for tensor in tensors)
        # norms count as weights of the model, but take no time
        assert 1 / total == pytest.approx(speed, rel=0.01)
    assert use(tensors[0], ggml_type("Q6_K")) > use(tensors[0], ggml_type("Q4_K"))  # not measured: by its bits

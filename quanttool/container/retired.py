"""Type ids that a file may have and that are not read here, and whose they are: two programs have used some for both.

    31-33   Q4_0_4_4, Q4_0_4_8, Q4_0_8_8   woven rows of Q4_0, made when loading since; 18 bytes for 32 values
    36      IQ4_NL_4_4 in llama.cpp once, 18 bytes for 32 values; I2_S in ik_llama.cpp, 1 byte for 4 values and 32 more
    37, 38  IQ4_NL_4_8, IQ4_NL_8_8         the same, woven otherwise

Sources: ggml/include/ggml.h of both programs; ggml/src/ggml.c of ik_llama.cpp (`ggml_nbytes` of I2_S).
"""

from math import prod

from .layout import aligned

_WOVEN = {31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}
_I2_S = 36


def explained(type_id: int, ne: tuple[int, ...], n_bytes: int, alignment: int) -> str:
    """What a type id that is not read stands for, in words; "" if no program ever used it.

    n_bytes:  bytes up to the next tensor, or to the end of the file: they settle a conflict
    """
    if type_id not in _WOVEN:
        return ""
    n_values = prod(ne)
    woven = f"{_WOVEN[type_id]}, which llama.cpp has given up; quantize the model again from its original weights"
    i2_s = "I2_S of ik_llama.cpp, which has one scale for all of a tensor; have ik_llama.cpp convert it to IQ2_BN"
    if type_id != _I2_S:
        return f"is {woven}"
    if n_bytes == aligned(n_values // 4 + 32, alignment):
        return f"is, by its {n_bytes} bytes, {i2_s}"
    if n_bytes == aligned(n_values // 32 * 18, alignment):
        return f"is, by its {n_bytes} bytes, {woven}"
    return f"is either {woven}; or {i2_s}"

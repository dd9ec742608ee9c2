"""The importance of the columns of one tensor's matrices, as a search uses it."""

import numpy as np
from numpy.typing import NDArray

from ..formats import block_format, read_only
from ..imatrix import Imatrix
from .plan import PlannedTensor


def importance_of(tensor: PlannedTensor, imatrix: Imatrix | None) -> NDArray[np.float32] | None:
    """f32 [n_matrices, n_cols], read-only; None where the imatrix has no say."""
    if not (imatrix and tensor.importance and tensor.searches) or block_format(tensor.type).importance == "ignored":
        return None
    values = imatrix.importance(tensor.source.name, tensor.source.n_cols)
    return read_only(np.ascontiguousarray(values, np.float32))

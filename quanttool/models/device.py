"""Where products with weights and attention are computed; everything around them stays with numpy and our kernels.

These two are nine tenths of a forward pass. The model files know neither: they take products from `Tensors`, and
attention from their `device`.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from numpy.typing import NDArray

from ..errors import UsageError
from .attention import attend
from .products import Array, Weight, weight_for_products


class Device(Protocol):
    """A place to compute.

    name:            what it was asked for by; None for our own kernels
    rows_per_batch:  rows that go through a step of a layer at a time, if the step itself wants fewer
    """

    name: str | None
    rows_per_batch: int
    attend: Callable[..., Array]  # as attention.attend

    def weight(self, data: NDArray, type_name: str, n_cols: int, precision: str) -> Weight:
        """A weight, ready for products; as products.weight_for_products."""


class OwnKernels:
    """The processor, with numba kernels (AVX-512) or numpy's BLAS."""

    name = None
    rows_per_batch = 0
    attend = staticmethod(attend)
    weight = staticmethod(weight_for_products)


def device_named(name: str | None) -> Device:
    """None: our own kernels; "cpu", "cuda", "cuda:1", ...: PyTorch there.

    Raises UsageError where PyTorch is missing, or has no such device.
    """
    if name is None:
        return OwnKernels()
    if find_spec("torch") is None:
        raise UsageError(f"device {name} needs PyTorch: pip install 'quanttool[torch]', or leave the device out")
    return import_module(".torch_device", __package__).TorchDevice(name)

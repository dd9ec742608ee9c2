"""What can go wrong, as one small tree.

    QuanttoolError            caught by the command line: one message, exit code 1, no traceback
    ├── UsageError            the command line itself is wrong: exit code 2
    ├── FileFormatError       a GGUF, imatrix or base file that is truncated, hostile or not what it says
    ├── ModelError            a model that cannot be run: unknown architecture, missing tensor, odd shape
    ├── RecipeError           a recipe or mix that cannot be applied to this model
    ├── ImatrixError          an imatrix that does not belong to the model, or holds impossible numbers
    └── QuantizeError         weights that cannot be quantized: NaN or infinite, a row that does not divide

A message names the object, what was found, what was expected and what to do.
"""


class QuanttoolError(Exception):
    """Base of every error that is the input's fault and not ours."""

    exit_code = 1


class UsageError(QuanttoolError):
    """The request itself makes no sense: an unknown type name, output equal to input."""

    exit_code = 2


class FileFormatError(QuanttoolError):
    """A file's bytes are not what its format promises."""


class ModelError(QuanttoolError):
    """The forward pass cannot run this model."""


class RecipeError(QuanttoolError):
    """A recipe cannot be read, or cannot be applied to this model."""


class ImatrixError(QuanttoolError):
    """An imatrix cannot be used with this model."""


class QuantizeError(QuanttoolError):
    """Weights cannot be represented in the wanted type."""

"""The command line: a thin edge. One file per command; `main` turns errors into one line and an exit code."""

import sys

import click

from .. import __version__
from ..blas import choose_kernels
from ..errors import QuanttoolError

# command -> module of this package that holds it as `command`; a module is imported when its command is needed
COMMANDS = {
    "imatrix": "imatrix",
    "quantize": "quantize",
    "perplexity": "perplexity",
    "sensitivity": "sensitivity",
    "recipe": "recipe",
    "cook": "cook",
}

INTERRUPTED = 130  # what shells report for a program stopped by Ctrl-C


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports each only when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        from importlib import import_module

        return import_module(f".{COMMANDS[name]}", __package__).command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="quanttool")
def quanttool() -> None:
    """Quantize language models to GGUF, and know exactly how good the result is.

    \b
    A typical session:
      quanttool imatrix -m model-f16.gguf -f calibration.txt -o model.imatrix.gguf
      quanttool quantize --imatrix model.imatrix.gguf model-f16.gguf model-Q4_K_M.gguf Q4_K_M
      quanttool perplexity -m model-Q4_K_M.gguf --base-model model-f16.gguf -f test.txt
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `quanttool` program. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    choose_kernels()
    try:
        # Not standalone: click hands over its exceptions, and the exit code of --help as a return value.
        sys.exit(quanttool.main(arguments, prog_name="quanttool", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        what = str(interrupt.__cause__ or interrupt)  # click wraps Ctrl-C
        click.echo(f"interrupted; {what or 'no half-written file was left behind'}", err=True)
        sys.exit(INTERRUPTED)
    except QuanttoolError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except MemoryError:
        click.echo("error: out of memory; use a smaller context or fewer chunks, or free some memory", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"error: {error.filename or 'input/output'}: {error.strerror or error}", err=True)
        sys.exit(1)

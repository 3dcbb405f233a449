"""The command line: verbs, one-line errors, exit codes. A verb's flags are the parameters of its recipe."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from danlu.base.errors import DanluError

DONE, BUG, MENDABLE = 0, 1, 2
PLACES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)  # a file where a folder should be, or the other way round

VERBS = {
    "doctor": "is this machine ready; what is missing and how to mend it",
    "fetch": "weights and data into the cache, by name, with licence and size",
    "prepare": "raw files -> cleaned, deduplicated, split, tokenized",
    "train": "a size from scratch, or weights that are there, on text or for a task",
    "evaluate": "scores with their uncertainty, on text or a task; a report",
    "apply": "a model's answers to every row of a file",
    "generate": "continue a prompt",
    "chat": "talk with a model",
    "serve": "the OpenAI API for one or more models",
    "bench": "how fast a model answers here, and what each precision costs in quality",
    "export": "a model as a GGUF file or a Hugging Face folder, for other programs",
    "runs": "what has been trained, how far and how well; runs side by side",
    "demo": "the main job once through: raw text in, served model out",
}
WITH_COMMANDS = ("runs", "bench")  # verbs that have commands of their own below them


def app() -> App:
    """All verbs; a verb's module is imported only when it is called or asked for help."""
    danlu = App(
        name="danlu",
        help="From raw text to a served large model, on the hardware you have.",
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,
    )
    for verb, what in VERBS.items():
        danlu.command(f"danlu.recipes.{verb}:{'app' if verb in WITH_COMMANDS else verb}", name=verb, help=what)
    return danlu


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns: 0 done, 2 what the user can mend; a bug raises, and Python exits 1."""
    try:
        app()(
            list(sys.argv[1:] if arguments is None else arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        return _refuse(f"{_one_line(str(error))}; see danlu --help")
    except DanluError as error:
        return _refuse(_one_line(str(error)))
    except KeyboardInterrupt as stop:
        return _refuse(_one_line(str(stop)) or "stopped; nothing half-written is taken for whole, run the same command again")
    except MemoryError:
        return _refuse("out of memory; use a smaller model, batch or context")
    except BrokenPipeError:  # `danlu generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, *PLACES):
            raise
        return _refuse(
            f"{error.filename or 'writing'}: {error.strerror}; make room or choose another folder, and run the same command again"
        )
    return DONE


def _refuse(line: str) -> int:
    print(f"danlu: {line}", file=sys.stderr, flush=True)
    return MENDABLE


def _one_line(text: str) -> str:
    return " ".join(text.split())

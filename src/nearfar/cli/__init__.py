"""The command line. Importing this is cheap; each command imports what it needs when it runs."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Sequence

USAGE = """\
nearfar - contrastive learning on your own data

usage: nearfar COMMAND [ARGUMENTS] [--option VALUE ...]

  demo                        the whole way on built-in data, in five minutes
  data PATH                   what is understood of your data: roles, sizes,
                              duplicates, problems
  methods [METHOD]            the methods; or one: its paper, needs and options
  fit [METHOD] DATA           train one method; without METHOD, one that fits
  compare DATA                train several under the same conditions;
                              leaderboard and report
  evaluate MODEL DATA         scores: kNN, probe, retrieval, beside baselines
  diagnose MODEL DATA         alignment, uniformity, rank, collapse: with advice
  embed MODEL DATA --out X    vectors of all rows: parquet, npy, or an index
  predict MODEL DATA          what a model says of each row: classes, numbers
  generate MODEL [PROMPT...]  what a model makes of prompts: texts or images
  search INDEX QUERY          nearest items to a text, image, numbers, an item
  explore INDEX               the vectors as a map in the browser: images,
                              neighbours, what is odd
  serve MODEL                 the model behind HTTP, as OpenAI's API: vectors,
                              search, predictions
  export MODEL --to FORM      onnx, openvino, sentence-transformers, timm,
                              safetensors: verified
  report RUN...               one HTML page of a run or a comparison
  cache [clear]               what is kept of data to be faster the next time

DATA is a folder of images or texts, a csv, tsv, parquet, jsonl, txt or npy
file, a BEIR folder, a saved `datasets` folder, or the name of a built-in set:
{sets}.
`nearfar COMMAND --help` shows its options. Commands that print results take
--json. Exit codes: 0 done, 1 the work failed, 2 wrong usage or wrong input.
"""

COMMANDS = {
    "demo": "demo", "data": "data", "methods": "methods", "fit": "fit", "compare": "compare", "evaluate": "measure",
    "diagnose": "measure", "embed": "embed", "predict": "answer", "generate": "answer", "search": "search",
    "explore": "explore", "serve": "serve", "export": "export", "report": "report", "cache": "cache",
}  # fmt: skip
"""The file of this folder whose `run_COMMAND` does it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        import textwrap

        from nearfar.registry import DATA_SETS

        sets = textwrap.fill(", ".join(DATA_SETS.names()), 79, break_on_hyphens=False)
        sys.stdout.write(USAGE.format(sets=sets))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from nearfar import __version__

        sys.stdout.write(f"nearfar {__version__}\n")
        return 0
    return _run(words[0], words[1:])


def _run(command: str, words: list[str]) -> int:
    from nearfar import processes
    from nearfar.errors import InputError, NearfarError, did_you_mean

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # several processes would each print a note for programmers
    processes.follow_parent()
    if not processes.leader():
        sys.stdout = io.StringIO()  # of several processes that run one command, the first speaks
    try:
        if command not in COMMANDS:
            raise InputError(
                f"Unknown command '{command}'.{did_you_mean(command, COMMANDS)}", "`nearfar --help` lists the commands."
            )
        from nearfar import modalities

        modalities.everyone()  # those of other packages add options
        module = importlib.import_module(f"nearfar.cli.{COMMANDS[command]}")
        return getattr(module, f"run_{command}")(words) or 0
    except InputError as error:
        _say(error)
        return 2
    except NearfarError as error:
        _say(error)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        what = (str(error) or "MemoryError").splitlines()[-1][:160]
        _say(f"The memory does not suffice ({what}). Try a smaller --batch-size, --micro-batch or --image-size.")
        return 1
    except KeyboardInterrupt as stop:
        _say("stopped. What was begun goes on with --resume (fit) or by the same command (compare, embed).")
        return 128 + getattr(stop, "number", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
        return 1


def _say(message: object) -> None:
    from nearfar import terminal

    sys.stdout.flush()
    terminal.say(f"nearfar: {message}")

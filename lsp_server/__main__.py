"""The command line ``codegen-lsp``: arguments in, exit status out.

Every ``--json`` prints one object on standard output and nothing else. Errors are one
line on standard error: status 1 where something failed, 2 where the usage was wrong.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from lsp_server import commands, model_commands
from lsp_server.errors import ServingError
from model_eval.errors import EvaluationError
from model_export.errors import ExportError

_NO_NETWORK = "changes nothing: this never touches the network"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ServingError, ExportError, EvaluationError) as error:
        print(f"codegen-lsp: {error}", file=sys.stderr)  # noqa: T201  See above.
        return 1
    except BrokenPipeError:
        # Whoever read our output has left; Python must not try to write to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codegen-lsp",
        description="Offline code completion with CodeGen, one comment after another.",
    )
    parser.add_argument("--version", action="version", version=version("codegen-lsp"))
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = _command(subparsers, "serve", commands.serve, "run the language server")
    _add_model(serve)
    serve.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    serve.add_argument(
        "--tcp",
        type=_whole_number(0, 65535),
        metavar="PORT",
        help="listen on this port of the loopback address instead of stdio",
    )

    export = _command(subparsers, "export", commands.export, "make a checkpoint ready to run")
    export.add_argument(
        "checkpoint", help="a checkpoint folder, a .gguf file, a name or a Hub id"
    )
    export.add_argument("--output", metavar="DIR", help="default: the user's cache")
    _add_precision(export)
    _add_json(export)

    complete = _command(subparsers, "complete", commands.complete, "complete at one position")
    complete.add_argument("file")
    complete.add_argument(
        "--line", type=_whole_number(0), required=True, help="zero-based line"
    )
    complete.add_argument(
        "--character", type=_whole_number(0), required=True, help="from 0, in UTF-16 units"
    )
    _add_model(complete)
    complete.add_argument(
        "--no-steering", action="store_true", help="let it name what does not exist, too"
    )
    complete.add_argument("--candidates", type=_whole_number(1, 100), default=1, metavar="N")
    _add_json(complete)

    synthesize = _command(
        subparsers,
        "synthesize",
        commands.synthesize,
        "write the program of every comment that has none",
    )
    synthesize.add_argument("file")
    _add_model(synthesize)
    synthesize.add_argument(
        "--write", action="store_true", help="change the file instead of showing a diff"
    )
    synthesize.add_argument(
        "--stale-from",
        type=_whole_number(0),
        metavar="LINE",
        help="write the turns from this zero-based line on anew",
    )
    _add_json(synthesize)

    models = _command(
        subparsers, "models", model_commands.list_models, "list the models and what is here"
    )
    _add_offline(models, _NO_NETWORK)
    _add_json(models)
    remove = _command(
        models.add_subparsers(metavar="ACTION"),
        "remove",
        model_commands.remove,
        "remove a model from this machine",
        # What stood before "remove" holds.
        argument_default=argparse.SUPPRESS,
    )
    remove.add_argument("name")
    _add_offline(remove, _NO_NETWORK)
    _add_json(remove)

    pull = _command(
        subparsers, "pull", model_commands.pull, "fetch a model and make it ready to run"
    )
    pull.add_argument("name", help="see `codegen-lsp models`; or a Hub id, a folder, a .gguf")
    _add_precision(pull)
    _add_offline(pull, "use what was fetched before, and do not touch the network")
    _add_json(pull)

    demo = _command(subparsers, "demo", commands.demo, "show a multi-turn example")
    _add_model(demo)

    doctor = _command(subparsers, "doctor", commands.doctor, "say what works here")
    _add_model(doctor)
    _add_json(doctor)

    bench = _command(subparsers, "bench", commands.bench, "measure speed; needs a clone")
    bench.add_argument(
        "benchmark",
        choices=("peers", "keystrokes", "soak", "replay"),
        help="other engines on the same checkpoint, typing through the real server, "
        "thousands of requests, or what is wrong with answers in real files",
    )
    bench.add_argument("--quick", action="store_true", help="fewer rounds")
    bench.add_argument(
        "--model", metavar="M", help="default: 350M with random weights, the embedded model"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    bench.add_argument(
        "--output", type=Path, metavar="DIR", help="where plots go; default: the user's cache"
    )

    evaluation = _command(
        subparsers, "eval", commands.evaluate, "measure the quality of what is written"
    )
    _add_evaluations(evaluation)
    return parser


def _add_evaluations(parser: argparse.ArgumentParser) -> None:
    subparsers = parser.add_subparsers(required=True, dest="evaluation", metavar="EVALUATION")
    steering = _evaluation(
        subparsers, "steering", "what names that are known to exist change in samples"
    )
    steering.add_argument(
        "--packages",
        type=_pinned,
        nargs="+",
        metavar="P==V",
        help="of PyPI; default: ten that the embedded model was not trained on",
    )
    steering.add_argument("--samples", type=_whole_number(1, 1000), metavar="N")
    steering.add_argument("--cases", type=_whole_number(1), metavar="N", help="of each package")
    steering.add_argument("--quick", action="store_true", help="a few minutes")
    _add_threads(steering)

    humaneval = _evaluation(subparsers, "humaneval", "how many functions pass their tests")
    _add_sampling(humaneval)
    humaneval.add_argument(
        "--temperature", type=_number(0, 2), nargs="+", default=[0.2], metavar="T"
    )
    humaneval.add_argument(
        "--preset",
        choices=("paper",),
        help="200 samples at 0.2, 0.6 and 0.8, the best temperature of each k",
    )
    mtpb = _evaluation(subparsers, "mtpb", "whether several turns beat a single one")
    problems = mtpb.add_mutually_exclusive_group(required=True)
    problems.add_argument(
        "--problems", type=Path, metavar="FILE", help="mtpb.jsonl of salesforce/CodeGen"
    )
    problems.add_argument(
        "--download", action="store_true", help="fetch that file, and compare its hash"
    )
    mtpb.add_argument(
        "--mode",
        choices=("clean", "faithful"),
        default="clean",
        help="several turns against single ones, or each way of the published scripts",
    )
    _add_sampling(mtpb)
    mtpb.add_argument(
        "--inputs", type=_whole_number(1), metavar="N", help="of each problem; default: all"
    )
    mtpb.add_argument("--temperature", type=_number(0, 2), default=0.2, metavar="T")
    _add_source_evaluations(subparsers)


def _add_source_evaluations(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    module = "source_commands"
    perplexity = _evaluation(
        subparsers, "perplexity", "how much source, or prompts of turns, surprise it", module
    )
    what = perplexity.add_mutually_exclusive_group(required=True)
    what.add_argument("source", type=Path, nargs="?", metavar="FOLDER", help="of Python files")
    what.add_argument(
        "--mtpb",
        type=Path,
        nargs=2,
        metavar=("RECORD", "PROBLEMS"),
        help="of `eval mtpb`: the prompts of its programs, passed against failed",
    )
    perplexity.add_argument(
        "--calibrate",
        action="store_true",
        help="keep the threshold with the model, where there is evidence for one",
    )
    perplexity.add_argument(
        "--limit", type=_whole_number(1), metavar="N", help="files; default: all"
    )
    perplexity.add_argument(
        "--window", type=_whole_number(2, 2048), metavar="N", help="tokens; default: 2048"
    )
    perplexity.add_argument(
        "--stride", type=_whole_number(1), metavar="N", help="tokens; default: half of it"
    )
    _add_threads(perplexity)

    holes = _evaluation(
        subparsers, "holes", "what the real server writes where code was taken away", module
    )
    holes.add_argument("folder", type=Path, help="a Python project; it stays as it is")
    _add_limit(holes)
    _add_threads(holes)
    holes.add_argument(
        "--run-tests",
        metavar="COMMAND",
        help="in a copy of the project; it runs the project's code, and what was written",
    )

    precisions = _evaluation(
        subparsers, "precisions", "what smaller precisions of a checkpoint cost", module
    )
    precisions.add_argument(
        "checkpoint", help="a checkpoint folder, a .gguf file, or a name that was pulled"
    )
    precisions.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    precisions.add_argument(
        "--source", type=Path, metavar="FOLDER", help="default: click and tqdm, from PyPI"
    )
    precisions.add_argument(
        "--files", type=_whole_number(1), default=20, metavar="N", help="of them; default: 20"
    )
    precisions.add_argument(
        "--holes", type=Path, metavar="FOLDER", help="a Python project to cut holes in, too"
    )
    _add_limit(precisions)
    _add_threads(precisions)
    precisions.add_argument(
        "--humaneval", action="store_true", help="and one sample of each of its problems"
    )
    precisions.add_argument(
        "--problems", type=_whole_number(1), metavar="N", help="of HumanEval; default: all"
    )

    report = _command(subparsers, "report", commands.evaluate, "draw a page of several runs")
    report.set_defaults(module="page_command")
    report.add_argument("records", type=Path, nargs="+", metavar="RECORD")
    report.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        type=_whole_number(1),
        default=100,
        metavar="N",
        help="holes of each kind; default: 100",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_whole_number(1), metavar="N", help="problems")
    parser.add_argument("--samples", type=_whole_number(1, 1000), default=1, metavar="N")
    parser.add_argument("--top-p", type=_number(0, 1), default=0.95, metavar="P")
    _add_threads(parser)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_whole_number(1, 256),
        metavar="N",
        help="for the model; one is best beside other work; default: as it serves",
    )


def _evaluation(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_text: str,
    module: str = "commands",
) -> argparse.ArgumentParser:
    """Add what a module of ``model_eval`` has a function of this name for."""
    parser = _command(subparsers, name, commands.evaluate, help_text)
    parser.set_defaults(module=module)
    if name != "precisions":
        # It takes a checkpoint, not what was made of one.
        _add_model(parser)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a run that was broken off goes on here; default: in the user's cache",
    )
    _add_json(parser)
    return parser


def _command(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: "commands.Command",
    help_text: str,
    argument_default: str | None = None,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name, help=help_text, description=help_text, argument_default=argument_default
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="M",
        help="a name of `codegen-lsp models`, a Hub id that was pulled, an exported folder or "
        "a checkpoint; default: the small embedded model",
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "fp16", "int8", "int4"), default="auto"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def _add_offline(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--offline", action="store_true", help=help_text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _pinned(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.+!]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no PACKAGE==VERSION")
    return text


def _whole_number(at_least: int, at_most: int = 1 << 31) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not at_least <= int(text) <= at_most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no whole number from {at_least} to {at_most}"
            )
        return int(text)

    return read


def _number(at_least: float, at_most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if (
            not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text)
            or not at_least <= float(text) <= at_most
        ):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number from {at_least} to {at_most}"
            )
        return float(text)

    return read


if __name__ == "__main__":
    sys.exit(main())

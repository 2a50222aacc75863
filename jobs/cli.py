"""The `ckd` command: exit codes, and which job a command starts. Imports a job only when it runs, so help and errors are quick. What can be
typed belongs to arguments."""

import argparse
import errno
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from ckd.config import Config
from ckd.configfile import dump, load
from ckd.errors import CkdError, IncompleteError
from jobs.arguments import COMMANDS, CONFIGS, FILES, Start, make_parser
from jobs.cluster_paths import placed
from jobs.console import Console, terminal_console

COMPUTING = {
    "run",
    "embed",
    "train-head",
    "soft-labels",
    "train-student",
    "evaluate",
}  # on a cluster they take shared paths only


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. User errors are one line on standard error."""
    _hush_libraries()
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        arguments.start(arguments)
    except CkdError as error:
        sys.stderr.write(f"ckd: {error}\n")
        return error.exit_code
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        where = error.filename or "run.artifacts, run.results or this machine's temporary folder"
        sys.stderr.write(
            f"ckd: {where}: no space left; what is finished is kept, make room and run the same command again\n"
        )
        return IncompleteError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ckd: stopped; finished shards are kept, run the same command again to continue\n")
        return 130
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser(STARTS)
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word or "words" not in arguments for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse leaves overrides that stand behind an option
        arguments.words = [*arguments.words, *rest]
    return arguments


def _stage(arguments: argparse.Namespace) -> None:
    files = [word for word in arguments.words if "=" not in word]
    config = _config(arguments)
    if arguments.command in COMPUTING:
        config = placed(config)
    with terminal_console("" if arguments.command in FILES else config.run.folder) as console:
        _job(arguments)(config, console, *([files] if arguments.command in FILES else []))


def _ingest(arguments: argparse.Namespace) -> None:
    from jobs import ingest

    ingest.run(_config(arguments), terminal_console(), arguments.source, arguments.folder, arguments.out)


def _synth(arguments: argparse.Namespace) -> None:
    from jobs import synth

    synth.run(arguments.out, arguments.patients, arguments.seed, terminal_console())


def _submit(arguments: argparse.Namespace) -> None:
    from jobs import submit

    submit.run(
        _config(arguments),
        terminal_console(),
        arguments.stage,
        arguments.address,
        following=arguments.follow,
        resource=arguments.resource,
        dry_run=arguments.dry_run,
    )


def _plan(arguments: argparse.Namespace) -> None:
    from jobs import plan

    plan.run(_config(arguments), terminal_console(), arguments.price, arguments.spot_price, arguments.visits_per_second)


def _doctor(arguments: argparse.Namespace) -> None:
    from jobs import doctor

    given = bool(arguments.config or arguments.words)
    doctor.run(_config(arguments), terminal_console(), arguments.address, configured=given, wake=arguments.wake)


def _export(arguments: argparse.Namespace) -> None:
    from jobs import export

    export.run(arguments.cohort, arguments.out, terminal_console(), arguments.adapter_share)


def _export_model(arguments: argparse.Namespace) -> None:
    from jobs import export_model

    config = _config(arguments)
    with terminal_console(config.run.folder) as console:
        export_model.run(config, console, arguments.out, onnx=arguments.onnx)


def _predict(arguments: argparse.Namespace) -> None:
    from jobs import predict

    with terminal_console(arguments.out) as console:
        predict.run(
            _config(arguments),
            console,
            arguments.input,
            arguments.model,
            arguments.out,
            engine=arguments.engine,
            meds=arguments.meds,
        )


def _serve(arguments: argparse.Namespace) -> None:
    from jobs import serve

    a = arguments
    serve.run(a.model, terminal_console(), engine=a.engine, host=a.host, port=a.port, token_file=a.token_file)


def _config(arguments: argparse.Namespace) -> Config:
    overrides = [word for word in arguments.words if "=" in word]
    if getattr(arguments, "adapter_share", None):
        overrides.append(f"teacher.adapter_share={arguments.adapter_share}")
    stray = [word for word in arguments.words if "=" not in word]
    if stray and arguments.command not in FILES:
        example = "ingest.min_support=10" if arguments.command == "ingest" else "data.train=data/name_train.json"
        raise CkdError(f"'{stray[0]}': expected key=value, such as {example}; see 'ckd {arguments.command} --help'")
    return load(arguments.config or CONFIGS.get(arguments.command), overrides)


def _hush_libraries() -> None:
    """Drop the libraries' notes that a user can do nothing about, such as the guess of a device that the configuration names."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|peft|ray)\b")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def _job(arguments: argparse.Namespace) -> Callable[..., None]:
    if arguments.dry_run:
        return _dry_run
    module = importlib.import_module(f"jobs.{COMMANDS[arguments.command][0]}")
    run: Callable[..., None] = module.run
    return run


def _dry_run(config: Config, console: Console, *_: object) -> None:
    from jobs.status import plan

    console.say(dump(config))
    for line in plan(config):
        console.say(line)


STARTS: dict[str, Start] = {  # what starts a command; the others are stages
    "ingest": _ingest,
    "synth": _synth,
    "submit": _submit,
    "plan": _plan,
    "doctor": _doctor,
    "export jsonl": _export,
    "export model": _export_model,
    "predict": _predict,
    "serve": _serve,
    "": _stage,
}


if __name__ == "__main__":
    raise SystemExit(main())

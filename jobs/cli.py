"""The `ckd` command: reads the command line, starts one job, and turns its errors into one line and an exit code."""

import argparse
import difflib
import logging
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from ckd import __version__
from ckd.config import Config
from ckd.configfile import dump, load, require_usable_url
from ckd.errors import CkdError
from ckd.heartbeat import heard
from ckd.section import place
from ckd.store.files import join, let_read, sweep_temporary
from ckd.store.unwritable import PLACES, unwritable
from ckd.switches import take_out, told
from cluster.address import IN_A_JOB
from jobs.arguments import EXIT_CODES, add_config, described
from jobs.cluster_paths import placed
from jobs.commands import COMMANDS, GROUPS, Command
from jobs.console import Console, terminal_console
from jobs.saved import load_saved, saving
from jobs.stopping import Stop, StoppedError, exit_code, stopping
from jobs.surroundings import settle


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. User errors are one line on standard error."""
    _hush_libraries()
    with stopping() as stop:
        code = _main(sys.argv[1:] if argv is None else argv, stop)
        if argv is None and stop.asked():
            os._exit(code)  # threads at work (a shard on a GPU) would be waited for, and C++ ones abort now and then
    return code


def _main(words: Sequence[str], stop: Stop) -> int:
    try:
        settle()
        for word in words:
            require_usable_url(word, word.partition("=")[0] + ": " if "=" in word.partition("://")[0] else "")
        arguments = _parse([_at_home(word) for word in words])
        for line in told(take_out()):
            sys.stderr.write(f"ckd: {line}\n")
        _start(COMMANDS[arguments.command], arguments)
        sys.stdout.flush()
    except CkdError as error:
        return _refused(error, stop)
    except KeyboardInterrupt as error:
        return _refused(error if isinstance(error, StoppedError) else StoppedError(signal.SIGINT))
    except Exception as error:
        if stop.number is not None:  # the processes that a local Ray needs were stopped too
            return _refused(StoppedError(stop.number))
        lost = isinstance(error, OSError) and _output_is_lost()
        if lost and isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        refused = unwritable(error, "standard output" if lost else PLACES)
        if refused is None:
            raise
        return _refused(refused)
    return 0


def _at_home(word: str) -> str:
    """A word with `~` as the home folder, where no shell has put it in: behind --out= and in quotes."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        return option + equals + (place(value) if value.startswith("~") else value)
    except ValueError as error:
        raise CkdError(f"{word}: {error}") from None


def _refused(error: CkdError | StoppedError, stop: Stop | None = None) -> int:
    """One line on standard error; the exit code is that of the signal where one came before the error."""
    with suppress(OSError):  # the terminal has gone
        sys.stderr.write(f"ckd: {error}\n")
        sys.stderr.flush()
    return error.exit_code if stop is None or stop.number is None else exit_code(stop.number)


def _output_is_lost() -> bool:
    """Whether standard output takes nothing more (`| head`, a full disk); then Python does not try again at its end."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def make_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The command line. Only the chosen command has its options: the others' modules are not imported."""
    parser = argparse.ArgumentParser(
        prog="ckd",
        description="Distil a LoRA-tuned language model over patient visits into a BERT-size student.",
        epilog=f"{overview()}\n\n{textwrap.fill(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ckd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", help="one of those below")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, **described(command.help, command.line))
        if name != chosen:
            continue
        if add_options := getattr(command.load(), "add_options", None):
            add_options(one)
        if command.words:
            add_config(one, command)
    return parser


def overview() -> str:
    """Every command with what it does, in the groups of `GROUPS`."""
    lines = []
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        for name in names:
            lines += textwrap.wrap(COMMANDS[name].help, 100, initial_indent=f"  {name:<15}", subsequent_indent=" " * 17)
    return "\n".join(lines)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if chosen is not None and chosen not in COMMANDS:
        close = difflib.get_close_matches(chosen, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "'ckd --help' lists them"
        raise CkdError(f"'{chosen}': no such command; {hint}")
    parser = make_parser(chosen)
    arguments, rest = parser.parse_known_args(argv)
    for word in [*rest, *getattr(arguments, "words", ())]:  # argparse takes a word with a blank in it as no option
        if word.startswith("--") and "." in word.partition("=")[0] and "words" in arguments:
            key, _, value = word[2:].partition("=")
            raise CkdError(f"{word}: a key has no dashes before it; did you mean {key}={value or '…'}")
    if any(word.startswith("-") or "=" not in word or "words" not in arguments for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse leaves overrides that stand behind an option
        arguments.words = [*arguments.words, *rest]
    return arguments


def _start(command: Command, arguments: argparse.Namespace) -> None:
    config = _config(command, arguments)
    if command.computes:
        config = placed(config)
    folder = {"run": config.run.folder, "out": getattr(arguments, "out", ""), "": ""}[command.events]
    with terminal_console(folder) as console:
        if getattr(arguments, "dry_run", False) and command.dry_run:
            _dry_run(config, console, reads=command.computes)
        else:
            let_read(config.run.file_mode)
            if command.computes:
                _sweep(config)
            with saving(config) if command.saves else nullcontext(), heard(console.interrupt):
                command.load().run(config, console, arguments)


def _sweep(config: Config) -> None:
    """Remove what killed commands of this run left half written: patients' texts among it."""
    for folder in {config.run.folder, config.run.artifacts_root}:
        sweep_temporary(folder)
    results = config.run.public_results
    for folder in (join(config.run.public_folder, "data"), join(config.run.public_folder, "lora"), results):
        sweep_temporary(folder, "*")
    sweep_temporary(results, "heads_results*/*")


def _config(command: Command, arguments: argparse.Namespace) -> Config:
    words = getattr(arguments, "words", [])
    overrides = [word for word in words if "=" in word]
    if getattr(arguments, "adapter_share", None):
        overrides.append(f"teacher.adapter_share={arguments.adapter_share}")
    stray = [word for word in words if "=" not in word]
    if stray and not command.words.startswith("FILE"):
        example = command.example.split()[0]
        raise CkdError(f"'{stray[0]}': expected key=value, such as {example}; see 'ckd {arguments.command} --help'")
    file = getattr(arguments, "config", None) or command.config
    looks = command.looks or getattr(arguments, "format", "") == "model"
    if file or not looks or IN_A_JOB in os.environ:  # a job is given its whole configuration
        return load(file or None, overrides)
    config, said = load_saved(overrides)
    if said:
        sys.stdout.write(f"{said}\n")
    return config


def _dry_run(config: Config, console: Console, *, reads: bool) -> None:
    from jobs import status

    console.say(dump(config))
    for line in status.plan(config):
        console.say(line)
    if reads:
        status.require_all(config, console.say)


def _hush_libraries() -> None:
    """Drop the libraries' notes that a user can do nothing about, such as guesses about a device."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|peft|ray)\b")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


if __name__ == "__main__":
    raise SystemExit(main())

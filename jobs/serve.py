"""Job: serve a student over HTTP. Checks address and token, loads the model, runs uvicorn."""

import ipaddress
import logging
import os
import signal
import socket
import time
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ckd.config import Config
from ckd.errors import ConfigError
from jobs.arguments import add_student
from jobs.console import Console
from jobs.stopping import not_ignored

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckd.predict.serving.schema import VisitIn

VARIABLE = "CKD_SERVE_TOKEN"  # of the environment
LEAST_TOKEN = 16  # characters
PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def add_options(parser: ArgumentParser) -> None:
    """The options of `ckd serve`."""
    add_student(parser)
    host = "beyond loopback only with a token (default 127.0.0.1)"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    port = "0 takes a free one and prints it (default 8000)"
    parser.add_argument("--port", type=int, default=8000, metavar="N", help=port)
    like = "the cohort of 'ckd ingest' that the student was trained on: visits may then be codes and drugs"
    parser.add_argument("--like", metavar="COHORT", help=like)
    must = "what every request but /healthz must bring; without it the variable CKD_SERVE_TOKEN"
    parser.add_argument("--token-file", metavar="FILE", help=must)


def run(config: Config, console: Console, arguments: Namespace) -> None:
    """Serve the student in folder --model until SIGTERM or Ctrl-C; requests in flight are answered first.

    Raises ConfigError for another host than loopback without a token, a token that cannot be used and an address that
    is taken; ArtifactError for a model that cannot be used.
    """
    if not all(map(find_spec, PACKAGES)):
        raise ConfigError(
            "'ckd serve' needs FastAPI, uvicorn and prometheus_client; install them with: pip install 'ckd-ehr[serve]'"
        )
    host = arguments.host
    token = read_token(arguments.token_file)
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: listens beyond this machine and would answer anybody; "
            f"set {VARIABLE} or --token-file FILE, with at least {LEAST_TOKEN} characters"
        )
    listening = _bind(host, arguments.port)
    app = _application(arguments, token, console)
    listening.listen()
    address, bound = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    console.say(
        f"serve: http://{shown}:{bound}/predict, page at /docs; {'with' if token else 'without'} a token; "
        "Ctrl-C or SIGTERM ends it"
    )
    _run(app, listening)
    console.say(f"serve: ended; {app.gauges.answered:,} requests and {app.gauges.scored:,} visits answered")


def read_token(file: str | None) -> str | None:
    """The token from `file`, else from the environment; None without one. Raises ConfigError, which never quotes it."""
    source = f"--token-file {file}" if file else VARIABLE
    try:
        text = Path(file).read_text(encoding="utf-8") if file else os.environ.get(VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{source}: cannot be read ({type(error).__name__}); expected a text file with only the token"
        ) from None
    if text is None:
        return None
    token = text.strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise ConfigError(
            f"{source}: not a usable token; expected at least {LEAST_TOKEN} ASCII characters without spaces, "
            "such as python -c 'import secrets; print(secrets.token_hex(32))' makes"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: an address, since a name may be resolved to anything, or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """Bind before the model is loaded, so that a taken address is known at once. Nobody gets in until it listens."""
    name = "127.0.0.1" if host == "localhost" else host
    listening = socket.socket(socket.AF_INET6 if ":" in name else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((name, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or "no such port"
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({reason}); choose another port or end what uses it"
        ) from None
    return listening


def _application(arguments: Namespace, token: str | None, console: Console) -> Any:
    """The app, made after the model is loaded: a server that listens is ready."""
    from ckd.predict.modelfolder import ModelFolder
    from ckd.predict.scorer import Scorer
    from ckd.predict.serving.app import make_app, must_be_text
    from ckd.predict.serving.guard import DEFAULTS
    from ckd.predict.serving.server import room_for

    started, folder = time.monotonic(), arguments.model
    write = _writer(arguments.like) if arguments.like else must_be_text
    model = ModelFolder.open(folder, arguments.engine)
    for note in model.notes:
        console.say(f"serve: {note}")
    scorer = Scorer(model)
    console.say(f"serve: {folder} loaded in {time.monotonic() - started:.1f} s")
    return make_app(scorer, model.task, model.fields, token, room_for(DEFAULTS), write)


def _writer(cohort: str) -> "Callable[[VisitIn], str]":
    """Writes a visit's codes and drugs as the cohort's texts are written."""
    from ckd.ehr.wording import Code, Recorded, Wording, Writer

    wording = Wording.of(cohort)
    if wording.history:
        what = f"--like {cohort}: its texts tell up to {wording.history} earlier visits (ingest.history)"
        raise ConfigError(f"{what}, a visit by its codes has none; leave out --like and send finished texts")
    writer = Writer(wording)

    def write(visit: "VisitIn") -> str:
        diagnoses, procedures = (
            [Code(each.code, each.version) for each in codes or ()] for codes in (visit.diagnoses, visit.procedures)
        )
        return writer(Recorded(diagnoses, visit.medications or (), procedures))

    return write


class _WithoutMessages(logging.Formatter):
    """Logs errors by type and place: their messages may quote a visit."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        from ckd.predict.serving.batcher import without_message

        error: tuple[type[BaseException], BaseException, TracebackType | None] = ei
        return without_message(error[1])


def _run(app: Any, listening: socket.socket) -> None:
    from ckd.predict.serving.server import make_server

    handler = logging.StreamHandler()
    handler.setFormatter(_WithoutMessages("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    server = make_server(app)
    # uvicorn takes two of these over while it runs (Ctrl-C once more drops what is in flight) and raises them again
    # when it has ended, which would end the process early.
    for number in not_ignored():
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listening])

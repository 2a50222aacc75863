"""The server around the application: uvicorn with our connections, and how many of them there can be."""

import resource
from dataclasses import replace
from functools import partial

import uvicorn

from ckd.predict.serving.connection import ROOM, Connection, Crowd
from ckd.predict.serving.guard import Guard, Limits

DRAIN_S = 30  # what requests in flight get at SIGTERM


def make_server(app: Guard) -> uvicorn.Server:
    """A server that answers with `app` until its `should_exit` is set; requests in flight are answered first.

    It logs errors only: what strangers send is counted in the metrics.
    """
    settings = uvicorn.Config(
        app,
        http=partial(Connection, Crowd(app.limits, app.gauges)),  # type: ignore[arg-type]
        log_config=None,
        log_level="error",
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    return uvicorn.Server(settings)


def room_for(limits: Limits) -> Limits:
    """The same limits with as many connections as the process may hold open: a quarter of its files stays for others.

    Raises the soft limit of open files where the hard one allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (limits.connections + ROOM) * 4 // 3
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits
    return replace(limits, connections=max(soft * 3 // 4 - ROOM, 1))

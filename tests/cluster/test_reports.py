"""Reports of a training group on their way to the driver; without Ray."""

import threading
from types import SimpleNamespace

import pytest

from cluster import fit
from cluster.fit import _Group, _Mailbox


class Calls:
    """An actor's handle: `name.remote(…)` calls it here."""

    def __init__(self, actor):
        self.actor = actor

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def group(monkeypatch):
    monkeypatch.setattr(fit, "ray", SimpleNamespace(get=lambda value: value, kill=lambda _: None))
    monkeypatch.setattr(fit, "SECONDS_BETWEEN_MAILS", 0.01)
    one = object.__new__(_Group)
    one.mailbox, one.stopped = Calls(_Mailbox()), lambda: False
    one.saved, one.started, one.refused = False, False, None
    return one


def test_a_report_that_cannot_be_shown_makes_the_group_leave_and_is_raised_once_in_the_drivers_thread(group, capfd):
    seen = threading.Event()

    def closed(_):
        seen.set()
        raise BrokenPipeError

    group.on_report = closed
    with pytest.raises(BrokenPipeError), group.fetching_reports():
        group.mailbox.put.remote({"step": 1})
        assert seen.wait(10)
        group.mailbox.put.remote({"step": 2})
    assert group.mailbox.actor.is_to_leave()
    assert capfd.readouterr().err == ""


def test_reports_arrive_in_order_the_last_at_the_end(group):
    heard = []
    group.on_report = heard.append
    with group.fetching_reports():
        for step in range(5):
            group.mailbox.put.remote({"step": step})
        group.mailbox.put.remote({"checkpoint": 5})
    assert heard == [*({"step": step} for step in range(5)), {"checkpoint": 5}]
    assert group.saved and not group.mailbox.actor.is_to_leave()

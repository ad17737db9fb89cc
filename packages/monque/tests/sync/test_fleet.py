"""Directing a fleet without an event loop."""

from __future__ import annotations

import threading
from typing import Any

from monque import Job, Options, Polling
from monque.sync import Monque


def test_names_are_paused_and_instances_drained(monque_uri: str) -> None:
    began, may_end = threading.Event(), threading.Event()
    with Monque(monque_uri) as monque, Monque(monque_uri, Options(polling=Polling(interval=60, safety=60))) as working:

        @working.worker("greet")
        def greet(job: Job[Any]) -> None:
            began.set()
            may_end.wait(20)

        pause = monque.fleet.pause("greet", 3600, reason="later")
        assert monque.fleet.paused() == [pause]
        working.start()
        monque.now("greet")
        assert not working.health().running
        assert monque.fleet.resume("greet")
        assert began.wait(20)
        health = working.health()
        assert (health.healthy, health.working, health.running) == (True, True, 1)
        while not (instances := monque.fleet.instances()):
            threading.Event().wait(0.05)
        assert monque.fleet.drain(instances[0].id)
        assert monque.fleet.undrain(instances[0].id)
        may_end.set()


def test_whether_it_is_well_can_be_asked_before_there_is_a_connection() -> None:
    monque = Monque("mongodb://127.0.0.1:1/")
    health = monque.health()
    assert (health.healthy, health.connected, health.reasons) == (
        False,
        False,
        ("not connected: initialize() was not called, or close() was",),
    )
    assert monque.is_healthy() is False

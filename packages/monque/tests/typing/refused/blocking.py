# pyright: strict
"""Wrong uses of `monque.sync`. Each line that must be refused ends in a marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque.sync import Monque

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession


def asynchronous(client: AsyncMongoClient[Any], session: AsyncClientSession, items: AsyncIterator[Any]) -> None:
    Monque(client)  # error: the asynchronous driver
    monque = Monque()
    monque.enqueue("mail", session=session)  # error: a session of it
    monque.enqueue_many(items)  # error: an asynchronous source
    monque.schedule("@daily", "mail", session=session)  # error: schedules take none


def arguments(monque: Monque) -> None:
    monque.enqueue(1)  # error: a name is text
    monque.enqueue("mail", delay="60")  # error: text for a length of time
    monque.now("mail", 1, 2)  # error: one payload
    monque.now(name=1)  # error: a name is text
    monque.jobs.get(1)  # error: a number is no id
    monque.jobs.get()  # error: which one
    monque.jobs.reschedule("0" * 24, run_at="now")  # error: text for a moment
    print(monque.jobs.delete("0" * 24).status)  # error: it says only whether there was one
    monque.jobs.cancel_many({})  # error: a dict for a filter
    monque.on("job:begin", print)  # error: there is no such event

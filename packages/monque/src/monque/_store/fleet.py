"""The fleet for people: which instances there are, and what they are told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from pymongo import ReturnDocument

from monque._names import check_job_name
from monque._store.errors import driver_errors
from monque._store.orders import IN_FORCE, INSTANCE, INSTANCES, PAUSE, PAUSES, date_of, fleet_of, instance_id
from monque.errors import InvalidArgumentError
from monque.fleet import Instance, InstanceStatus, Pause, RunningJob
from monque.options import Duration, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection

Document = dict[str, Any]

_LONGEST_REASON = 1000


class Fleet:
    """The instances that work on a collection of jobs, to look at and to direct; `Monque.fleet` is one.

    What is said here is written down beside the jobs, so it holds for instances that are started later, too. An
    instance hears of it by a change stream, or with its next poll where there are none.
    """

    def __init__(self, jobs: AsyncCollection[Document], notice: Callable[[], None]) -> None:
        self._fleet = fleet_of(jobs)
        self._notice = notice

    async def pause(self, name: str, duration: Duration | None = None, reason: str | None = None) -> Pause:
        """Let no instance claim jobs of a name, until `resume` or for some time. Runs that have begun go on.

        The jobs stay pending. Within a second every instance that can reach the database has heard of it; a claim that
        is on its way at that moment is still carried out. Pausing again takes the place of what was said before.

        Args:
            name: The name; it need not be that of a worker yet.
            duration: For how long, as a timedelta or in seconds, by the server's clock; None for no end.
            reason: Why, for others to see.

        Returns:
            What holds from now on.

        Raises:
            InvalidJobIdentifierError: `name` cannot be the name of a job.
            InvalidArgumentError: `duration` is no length of time, or `reason` no text of at most 1,000 characters.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         pause = await monque.fleet.pause("send-email", duration=600, reason="the mail server is down")
            ...         print(pause.name, pause.until - pause.since, pause.reason)
            ...         await monque.fleet.resume("send-email")
            >>> asyncio.run(main())
            send-email 0:10:00 the mail server is down
        """
        check_job_name(name)
        _check_duration(duration)
        _check_reason(reason)
        length = None if duration is None else max(round(seconds(duration) * 1000), 1)
        update = {
            "name": {"$literal": name},
            "since": "$$NOW",
            "expireAt": "$$REMOVE" if length is None else {"$add": ["$$NOW", length]},
            "reason": "$$REMOVE" if reason is None else {"$literal": reason},
        }
        with driver_errors("pause"):
            document = await self._fleet.find_one_and_update(
                {"_id": f"{PAUSE}{name}"}, [{"$set": update}], upsert=True, return_document=ReturnDocument.AFTER
            )
        self._notice()
        return _pause(cast("Document", document))  # an upsert leaves one behind

    async def resume(self, name: str) -> bool:
        """Let jobs of a name be claimed again.

        Args:
            name: The name.

        Returns:
            Whether it was paused.

        Raises:
            InvalidJobIdentifierError: `name` cannot be the name of a job.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         print(await monque.fleet.resume("send-email"))
            >>> asyncio.run(main())
            False
        """
        check_job_name(name)
        with driver_errors("resume"):
            result = await self._fleet.delete_one({"_id": f"{PAUSE}{name}", **IN_FORCE})
        self._notice()
        return result.deleted_count == 1

    async def paused(self) -> list[Pause]:
        """Which names are paused.

        Returns:
            The pauses in force, by name.

        Raises:
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.fleet.pause("send-email")
            ...         print([pause.name for pause in await monque.fleet.paused()])
            ...         await monque.fleet.resume("send-email")
            >>> asyncio.run(main())
            ['send-email']
        """
        with driver_errors("see what is paused"):
            return [_pause(document) async for document in self._fleet.find({**PAUSES, **IN_FORCE}).sort("_id")]

    async def instances(self) -> list[Instance]:
        """Which instances there are, by what they said last: each says it every third of its lease.

        Returns:
            The instances, in the order in which they were started. One that has stopped is not among them; one that
            has vanished is, as `"missing"`, for an hour.

        Raises:
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         for instance in await monque.fleet.instances():
            ...             print(instance.id, instance.host, instance.pid, instance.status)
            >>> asyncio.run(main())
        """
        shown = {"$set": {"now": "$$NOW"}}
        with driver_errors("see the instances"):
            found = await self._fleet.aggregate([{"$match": {**INSTANCES, **IN_FORCE}}, shown])
            instances = [_instance(document) async for document in found]
        return sorted(instances, key=lambda instance: (instance.started_at, instance.id))

    async def drain(self, instance_id: str) -> bool:
        """Let an instance claim nothing more, until `undrain`. What it runs goes on, and it stays alive and healthy.

        It holds for as long as the instance works: one that is started anew is another one.

        Args:
            instance_id: The id; `Monque.instance_id`, or as `instances` has it.

        Returns:
            Whether there is such an instance.

        Raises:
            InvalidArgumentError: `instance_id` is no text.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         print(await monque.fleet.drain("unknown"))
            >>> asyncio.run(main())
            False
        """
        return await self._set_draining(instance_id, draining=True)

    async def undrain(self, instance_id: str) -> bool:
        """Let an instance claim jobs again.

        Args:
            instance_id: The id.

        Returns:
            Whether there is such an instance.

        Raises:
            InvalidArgumentError: `instance_id` is no text.
            ConnectionError: The database did not confirm the write.
        """
        return await self._set_draining(instance_id, draining=False)

    async def _set_draining(self, instance: str, *, draining: bool) -> bool:
        if not isinstance(instance, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError("instance_id", instance, "the id of an instance, as `fleet.instances()` has it")
        with driver_errors("direct the instance"):
            result = await self._fleet.update_one(
                {"_id": instance_id(instance), **IN_FORCE}, {"$set": {"draining": draining}}
            )
        self._notice()
        return result.matched_count == 1


def _check_duration(duration: object) -> None:
    if duration is not None and not (is_duration(duration) and seconds(duration) > 0):
        raise InvalidArgumentError(
            "duration",
            duration,
            "a timedelta or a number of seconds, more than 0, at most 1,000 years; None for no end",
        )


def _check_reason(reason: object) -> None:
    if reason is not None and not (isinstance(reason, str) and len(reason) <= _LONGEST_REASON):
        raise InvalidArgumentError("reason", reason, f"a text of at most {_LONGEST_REASON:,} characters, or None")


def _pause(document: Document) -> Pause:
    return Pause(document["name"], document["since"], date_of(document.get("expireAt")), document.get("reason"))


def _instance(document: Document) -> Instance:
    return Instance(
        id=str(document["_id"]).removeprefix(INSTANCE),
        host=document["host"],
        pid=document["pid"],
        version=document["version"],
        started_at=document["startedAt"],
        last_beat=document["lastBeat"],
        workers={worker["name"]: worker["concurrency"] for worker in document["workers"]},
        running=tuple(_running(run) for run in document["running"]),
        running_count=document["runningCount"],
        status=_status(document),
    )


def _running(run: Document) -> RunningJob:
    job: ObjectId = run["job"]
    return RunningJob(job, run["name"], date_of(run.get("since")))


def _status(document: Document) -> InstanceStatus:
    if document["now"] - document["lastBeat"] > timedelta(milliseconds=3 * document["beatInterval"]):
        return "missing"
    if document["stopping"]:
        return "stopping"
    return "draining" if document.get("draining") is True else "working"

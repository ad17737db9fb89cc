"""Orders: the routes that take them, and the jobs that confirm them."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pymongo.asynchronous.client_session import AsyncClientSession

from monque import Job
from monque_fastapi import MonqueDep, accepted, cron, job, job_controller

from .mail import MailerDep
from .models import ClientDep, Order
from .stock import locate

router = APIRouter(prefix="/orders")


class NewOrder(BaseModel):
    item: str
    email: str


@job_controller("orders")
class OrderJobs:
    def __init__(self, mailer: MailerDep) -> None:
        self._mailer = mailer

    @job("confirm", concurrency=10, store_result=True)
    async def confirm(self, order_id: str, job: Job[Any]) -> str:
        order = await Order.get(order_id)
        if order is None:
            return "there is no such order any more"
        job.progress(0.5, "writing to the customer")
        await self._mailer.send(order_id, order.email, f"Your {order.item}")
        await order.set({Order.is_confirmed: True})
        await locate.with_(unique_key=order_id).enqueue(item=order.item)
        return f"confirmed to {order.email}"

    @cron("0 6 * * *", timezone="Europe/Berlin")
    async def remind(self) -> None:
        for order in await Order.find(Order.is_confirmed == False).to_list():  # noqa: E712  Beanie's way
            await self._mailer.send(f"{order.id} reminder", order.email, f"Your {order.item} is on its way")


@router.post("", status_code=202)
async def post_order(new: NewOrder, request: Request, client: ClientDep, monque: MonqueDep) -> JSONResponse:
    async def place(session: AsyncClientSession) -> Job[Any]:
        order = await Order(item=new.item, email=new.email).insert(session=session)
        return await monque.enqueue("orders.confirm", {"order_id": str(order.id)}, session=session)

    # The order and its job are there together, or not at all.
    async with client.start_session() as session:
        return accepted(request, await session.with_transaction(place))

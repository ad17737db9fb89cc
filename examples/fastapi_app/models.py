"""What the shop keeps in its database, and the way there."""

from typing import Annotated, Any

from beanie import Document
from fastapi import Depends, Request
from pymongo import AsyncMongoClient


def get_client(request: Request) -> AsyncMongoClient[Any]:
    client: AsyncMongoClient[Any] = request.state.client
    return client


ClientDep = Annotated[AsyncMongoClient[Any], Depends(get_client)]


class Order(Document):
    item: str
    email: str
    is_confirmed: bool = False

    class Settings:
        name = "orders"


class Mail(Document):
    id: str  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    to: str
    subject: str

    class Settings:
        name = "mails"

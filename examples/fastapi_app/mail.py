"""Sending mail; here it ends up in the database."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request

from .models import Mail


class Mailer:
    def __init__(self, sender: str) -> None:
        self._sender = sender

    async def send(self, key: str, to: str, subject: str) -> None:
        """Send a mail, once however often it is asked for: jobs may run more than once."""
        await Mail(id=key, to=to, subject=f"{subject} (from {self._sender})").save()


async def get_mailer(request: Request) -> AsyncGenerator[Mailer]:
    yield Mailer(request.state.sender)  # after this, a real one would say goodbye to its server


MailerDep = Annotated[Mailer, Depends(get_mailer)]

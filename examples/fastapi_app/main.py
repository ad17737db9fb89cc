"""The application."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from beanie import init_beanie  # pyright: ignore[reportUnknownVariableType]
from fastapi import FastAPI
from pymongo import AsyncMongoClient

from monque import Concurrency, Options
from monque_fastapi import MonqueModule, job_routes

from . import orders, stock
from .models import Mail, Order


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    uri = os.environ.get("MONQUE_URI", "mongodb://localhost:27017/shop?replicaSet=rs0")
    async with AsyncMongoClient[Any](uri) as client:
        await init_beanie(client.get_default_database("shop"), document_models=[Order, Mail])
        yield {"client": client, "sender": os.environ.get("SHOP_SENDER", "shop@example.org")}


jobs = MonqueModule(
    Order,  # Beanie's connection, and so its transactions
    jobs=[orders, stock],
    work="SHOP_WEB_ONLY" not in os.environ,
    options=Options(concurrency=Concurrency(per_instance=50)),
)
app = FastAPI(title="Shop", lifespan=jobs.wrap(lifespan))
app.include_router(orders.router)
app.include_router(job_routes(names={"orders.confirm"}))

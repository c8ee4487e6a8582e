"""A shop with FastAPI and SQLAlchemy. Run it: python examples/fastapi_shop/main.py

That places a few orders, then runs a worker. To serve it: cd examples/fastapi_shop, and there
``uvicorn main:app --workers 2`` and, in another terminal, ``router run-worker``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

import router

HERE = Path(__file__).resolve().parent

new_session = async_sessionmaker(expire_on_commit=False)


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """An order of a customer."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The file is read, and refused, before the first request; connections are closed after the last."""
    events = router.configure(HERE / "extensions.yaml")
    engine = create_async_engine(os.environ.get("SHOP_DATABASE", "sqlite+aiosqlite:///shop.db"))
    new_session.configure(bind=engine)
    async with engine.begin() as connection:
        await connection.execute(CreateTable(Order.__table__, if_not_exists=True))
    yield
    await engine.dispose()
    events.close()


app = FastAPI(lifespan=lifespan)


async def a_session() -> AsyncIterator[AsyncSession]:
    """A session for each request; what was not committed is rolled back."""
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(a_session)]


@app.post("/orders")
async def place_order(item: str, session: Session) -> dict[str, Any]:
    """The event belongs to the transaction: no commit, no event."""
    order = Order(item=item)
    session.add(order)
    await session.flush()
    placed = await router.after_commit(session).adispatch("order.placed", {"order_id": order.id, "item": item})
    if item == "unicorn":
        raise HTTPException(409, "sold out")  # and so neither the order nor the event happen
    await session.commit()
    assert placed.done is not None
    return {"order_id": order.id, "results": placed.done.results}


@app.get("/orders")
async def list_orders(session: Session) -> list[str]:
    """What was ordered."""
    return [*await session.scalars(select(Order.item).order_by(Order.id))]


@app.post("/stock/{item}")
async def count_stock(item: str, left: int) -> dict[str, Any]:
    """Without a transaction: the handlers run now, the jobs are queued when this returns."""
    done = await router.adispatch("stock.counted", {"item": item, "left": left})
    return {"results": done.results, "queued": len(done.jobs)}


async def customers() -> None:
    """What a few of them ask for."""
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for method, path in [
            ("POST", "/orders?item=lamp"),
            ("POST", "/orders?item=unicorn"),
            ("GET", "/orders"),
            ("POST", "/stock/lamp?left=3"),
        ]:
            answer = await client.request(method, path)
            print(f"{method} {path}: {answer.status_code} {answer.json()}", flush=True)


def main() -> None:
    """The customers, then a worker."""
    with tempfile.TemporaryDirectory(prefix="router-fastapi-") as folder:
        os.environ["SHOP_DATABASE"] = f"sqlite+aiosqlite:///{folder}/shop.db"
        os.environ.setdefault("ROUTER_BROKER_URL", f"sqlite:///{folder}/router.db")
        asyncio.run(customers())
        command = [
            str(Path(sys.executable).with_name("router")),
            "run-worker",
            "--config",
            str(HERE / "extensions.yaml"),
        ]
        options = ["--stop-when-empty", "--concurrency", "1", "--log-level", "warning"]
        subprocess.run([*command, *options], check=True, timeout=60)


if __name__ == "__main__":
    main()

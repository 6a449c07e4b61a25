"""SQLAlchemy: calls are sent when their transaction has committed, and not if it is rolled back.

cloudq worker -A after_commit --processes 1
python after_commit.py
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    SessionTransaction,
    mapped_column,
    sessionmaker,
)

from cloudq import AsyncResult, CloudQ, Prepared

app = CloudQ("shop")
HELD, COMMITTED, SENT = "calls to send", "what has committed", "calls that were sent last"


def send_on_commit(session: Session, call: Prepared[Any]) -> None:
    """Send a call with the commit of the transaction, or savepoint, in which the session is."""
    within = session.get_nested_transaction() or session.get_transaction() or session.begin()
    session.info.setdefault(HELD, {}).setdefault(within, []).append(call)


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    """Note what has committed: it ends next."""
    session.info[COMMITTED] = session.get_nested_transaction() or session.get_transaction()


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    """Send what was held back; a savepoint hands it to the transaction around it.

    What was not committed is forgotten. The session can be used again, also where sending fails.
    """
    held: dict[SessionTransaction, list[Prepared[Any]]] = session.info.get(HELD, {})
    calls = held.pop(transaction, [])
    if session.info.get(COMMITTED) is not transaction:
        return
    del session.info[COMMITTED]
    if transaction.parent is None:
        session.info[SENT] = app.publish(calls) if calls else []
    elif calls:
        held.setdefault(transaction.parent, []).extend(calls)


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """An order, and the amount that was charged."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    cents: Mapped[int] = mapped_column(default=0)


engine = create_engine("sqlite:///shop.db")
Sessions = sessionmaker(engine)


@app.task
def charge(order: int) -> int:
    """Charge an order, which must be in the database by now; returns the amount in cents."""
    with Sessions.begin() as session:
        found = session.get_one(Order, order)
        found.cents = order * 100
        return found.cents


def main() -> None:
    """Order twice; the second order is rolled back, and its call with it."""
    Base.metadata.create_all(engine)
    with Sessions() as session:
        session.add(Order(id=1))
        send_on_commit(session, charge.prepare(1))
        session.commit()
        sent: list[AsyncResult[int]] = session.info[SENT]
        print("order 1:", [call.get(timeout=60) for call in sent])

        session.add(Order(id=2))
        send_on_commit(session, charge.prepare(2))
        session.rollback()
        session.commit()
        print("order 2:", session.info[SENT])


if __name__ == "__main__":
    main()

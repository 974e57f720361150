"""Which job is next: owners take turns, so that the thousands of one keep no other waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver_jobs.table import JOBS, TURNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_database import Connection


def next_job(kinds: Sequence[str]) -> Any:
    """Return the expression of the id of the next job of some kinds; NULL when none waits.

    A job that had begun goes on first: its server shut down or was lost, or its process died. Then
    it is the turn of the owner of whose jobs the fewest run, of these the one whose last turn is
    the longest ago; the oldest of that owner's jobs is next.
    """
    waiting = sa.and_(JOBS.c.state == "queued", JOBS.c.kind.in_(kinds))
    new = sa.and_(waiting, JOBS.c.started_at.is_(None))
    oldest = sa.select(JOBS.c.id).order_by(JOBS.c.created_at, JOBS.c.id).limit(1)
    return sa.func.coalesce(
        oldest.where(waiting, JOBS.c.started_at.is_not(None)).scalar_subquery(),
        oldest.where(new, JOBS.c.owner == _next_owner(new)).scalar_subquery(),
    )


def _next_owner(new: Any) -> Any:
    """Return the expression of whose turn it is, of the owners of ``new`` jobs."""
    came = sa.func.min(JOBS.c.created_at).label("came")
    owners = sa.select(JOBS.c.owner, came).where(new).group_by(JOBS.c.owner).subquery()
    of = JOBS.alias()
    running = sa.select(sa.func.count()).where(
        of.c.state == "running", of.c.owner == owners.c.owner
    )
    turn = sa.select(TURNS.c.turn).where(TURNS.c.owner == owners.c.owner)
    order = (running.scalar_subquery(), sa.func.coalesce(turn.scalar_subquery(), 0), owners.c.came)
    return sa.select(owners.c.owner).order_by(*order).limit(1).scalar_subquery()


async def note_turn(connection: Connection, owner: str) -> None:
    """Note that an owner had the last turn. Transactions do so one after the other."""
    last = sa.select(sa.func.coalesce(sa.func.max(TURNS.c.turn), 0) + 1).scalar_subquery()
    mine = sa.update(TURNS).where(TURNS.c.owner == owner).values(turn=last)
    if not (await connection.execute(mine)).rowcount:
        await connection.execute(sa.insert(TURNS).values(owner=owner, turn=last))

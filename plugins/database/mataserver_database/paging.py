"""Pages of the rows of a list, by number or behind a cursor.

A page by number (``offset``) counts rows: one that is added or removed between two pages moves the
others, and a client sees one twice or misses one. A cursor says behind which row a page begins,
so that a client that follows ``next_cursor`` is given every row that stays exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from mataserver_database.cursors import Cursors

if TYPE_CHECKING:
    from collections.abc import Collection

    from msgspec import UnsetType

    from mataserver_database.connection import Connection
    from mataserver_database.page_requests import Page


class Rows(NamedTuple):
    """A page of a list, and how many rows the list has.

    next_cursor: what gives the page behind this one, where there is one.
    """

    found: list[sa.RowMapping]
    total: int
    next_cursor: str | UnsetType


class by_code_point(FunctionElement[str]):  # noqa: N801 - it is used as a function of SQL is
    """What sorts a text by its characters' numbers, as Python and SQLite do.

    PostgreSQL sorts by the language that its database was made for: ``a-c`` behind ``ab``.
    """

    inherit_cache = True
    type = sa.String()


@compiles(by_code_point)
def _plain(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(by_code_point, "postgresql")
def _collated(element: Any, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


class Sorting:
    """How a list is sorted: by columns of which no two rows have the same values.

    name: the list's, for its cursors. descending: the names of columns whose largest come first.
    """

    def __init__(
        self, name: str, *columns: sa.Column[Any], descending: Collection[str] = ()
    ) -> None:
        self._columns = columns
        self._descending = frozenset(descending)
        self._cursors = Cursors(name, *(column.type.python_type for column in columns))

    def __call__(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return a query whose rows are sorted."""
        return query.order_by(
            *(
                key.desc() if column.name in self._descending else key.asc()
                for column, key in ((each, _key(each)) for each in self._columns)
            )
        )

    async def page(self, connection: Connection, query: sa.Select[Any], page: Page) -> Rows:
        """Return a page of what a query finds. Raises ``InvalidParams`` for another's cursor."""
        counting = sa.select(sa.func.count()).select_from(query.subquery())
        wanted = self(query).offset(page.offset or None)
        if page.cursor is not None:
            wanted = wanted.where(self._behind(self._cursors.read(page.cursor)))
        if page.limit is not None:
            wanted = wanted.limit(page.limit + 1)  # one more tells whether there is another page
        found = list((await connection.execute(wanted)).mappings())
        total = int(await connection.scalar(counting) or 0)
        if page.limit is None or len(found) <= page.limit:
            return Rows(found, total, UNSET)
        found.pop()
        last = tuple(found[-1][column.name] for column in self._columns)
        return Rows(found, total, self._cursors.write(last))

    def _behind(self, values: tuple[Any, ...]) -> sa.ColumnElement[bool]:
        """Return what is true of the rows behind the one with these values."""
        behind: sa.ColumnElement[bool] = sa.false()
        for column, value in reversed(list(zip(self._columns, values, strict=True))):
            key = _key(column)
            further = key < value if column.name in self._descending else key > value
            behind = sa.or_(further, sa.and_(key == value, behind))
        return behind


def _key(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return what a column sorts by."""
    return by_code_point(column) if isinstance(column.type, sa.String) else column

"""The database as a service."""

from mataserver import hookimpl
from mataserver_database import Database
from mataserver_database.options import Settings


class Service:
    def __init__(self, ctx):
        self._ctx = ctx

    def routes(self):
        return []

    async def __aenter__(self):
        self.database = Database(self._ctx.data_dir, self._ctx.settings.url)
        return self

    async def __aexit__(self, *exc):
        await self.database.close()


@hookimpl
def settings():
    return Settings


@hookimpl
def service(ctx):
    return Service(ctx)

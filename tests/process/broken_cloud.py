"""A cloud with one promise broken on purpose: the controls of test_cloud_killed run it as a process of its own.

    python broken_cloud.py FOLDER PORT acknowledge-before-commit
    python broken_cloud.py FOLDER PORT no-idempotency-key

Prints what `edgeloop cloud serve --json` prints. All the rest is the real cloud.
"""

import asyncio
import sys
from pathlib import Path

import sqlalchemy as sa
from litestar import Litestar

from edgeloop.cli.say import ready
from edgeloop.cloud.api import Services, api_router
from edgeloop.cloud.app import open_stores
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.hub import CloudHub, Stores
from edgeloop.contracts.messages import SendReply, SendRequest
from edgeloop.hub.proof import ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.hub.serve import Listen, bind, serve
from edgeloop.hub.waker import Waker

_COMMIT_DELAY_S = 0.4


class AcknowledgesBeforeCommit(CloudHub):
    """Answers first, commits a moment later."""

    def __init__(self, stores: Stores, conductor: Conductor, waker: Waker) -> None:
        super().__init__(stores, conductor, waker)
        self._late: set[asyncio.Task[None]] = set()

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        async def commit_late() -> None:
            await asyncio.sleep(_COMMIT_DELAY_S)
            await CloudHub.send(self, device_id, request)

        task = asyncio.create_task(commit_late())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return SendReply(accepted=len(request.events), repeated=0)


def drop_the_key(connection: sa.Connection) -> None:
    """Make the events table anew without its primary key, so that nothing recognises a repeat."""
    if connection.exec_driver_sql("SELECT count(*) FROM pragma_table_info('events') WHERE pk > 0").scalar():
        connection.exec_driver_sql("CREATE TABLE keyless AS SELECT * FROM events")
        connection.exec_driver_sql("DROP TABLE events")
        connection.exec_driver_sql("ALTER TABLE keyless RENAME TO events")


def main() -> None:
    """Serve until killed."""
    folder, port, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    config = CloudConfig(folder=folder, listen=Listen(port=port))
    stores, waker = open_stores(config), Waker()
    conductor = Conductor(stores.database, waker)
    kind = AcknowledgesBeforeCommit if fault == "acknowledge-before-commit" else CloudHub
    if fault == "no-idempotency-key":
        stores.database.write_now(drop_the_key)
    app = Litestar(
        route_handlers=[
            hub_router(kind(stores, conductor, waker), ProofChecker()),
            api_router(Services(config, stores, conductor)),
        ],
        exception_handlers=error_handlers(),
        logging_config=None,
    )
    handle = bind(config.listen)
    asyncio.run(
        serve(
            app,
            handle,
            config.listen,
            on_ready=lambda url: ready("cloud", as_json=True, url=url),
            on_ending=waker.release,
        )
    )


if __name__ == "__main__":
    main()

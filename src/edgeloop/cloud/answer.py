"""The cloud's own predictions: the `infer` verb, on the most exact variant there is, by the runtime's pool."""

import asyncio
from collections import OrderedDict

import structlog

from edgeloop.bundle.archive import Bundle, parse_manifest
from edgeloop.cloud.store import registry
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.contracts.names import BundleRef
from edgeloop.runtime.candidates import float_first
from edgeloop.runtime.engines.installed import installed_engines
from edgeloop.runtime.pool import Pool, PoolSettings
from edgeloop.runtime.servable import Servable, unproven

_log = structlog.get_logger(__name__)

_KEPT = 4
_SETTINGS = PoolSettings(workers=1, max_batch=1, inline_ms=0)


class Answerer:
    """Keeps the last few bundles loaded. Belongs to one event loop."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._loaded: OrderedDict[BundleRef, Pool] = OrderedDict()
        self._loading: dict[BundleRef, asyncio.Task[Pool]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def infer(self, request: InferRequest) -> InferReply:
        """Predict within the deadline. Raises NotFound, Unavailable, or what the input is wrong with."""
        deadline_s = request.deadline_ms / 1000
        try:
            async with asyncio.timeout(deadline_s):
                pool = await self._pool(await self._ref(request))
                return InferReply(prediction=await pool.predict(request.data, deadline_s=deadline_s))
        except TimeoutError as error:
            raise Unavailable(f"no answer within {request.deadline_ms} ms; keep the device's own") from error

    async def close(self) -> None:
        """Answer what was asked, and give the models up."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.gather(*(pool.close() for pool in self._loaded.values()), *self._ending)
        self._loaded.clear()

    async def _ref(self, request: InferRequest) -> BundleRef:
        if request.version is not None:
            return BundleRef(request.name, request.version)
        newest = await self._database.read(lambda connection: registry.newest_bundle(connection, request.name))
        return BundleRef(newest.name, newest.version)

    async def _pool(self, ref: BundleRef) -> Pool:
        if ref in self._loaded:
            self._loaded.move_to_end(ref)
            return self._loaded[ref]
        if ref not in self._loading:
            self._loading[ref] = asyncio.create_task(self._load(ref))
            self._loading[ref].add_done_callback(_told)
        # Who cannot wait for it goes; the model is loaded for who asks next.
        return await asyncio.shield(self._loading[ref])

    async def _load(self, ref: BundleRef) -> Pool:
        try:
            pool = self._loaded[ref] = await Pool.open(await self._servable(ref), _SETTINGS)
        finally:
            del self._loading[ref]
        if len(self._loaded) > _KEPT:
            _, oldest = self._loaded.popitem(last=False)
            task = asyncio.create_task(oldest.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return pool

    async def _servable(self, ref: BundleRef) -> Servable:
        data = await self._database.read(lambda connection: registry.manifest_bytes(connection, ref))
        manifest = parse_manifest(data)
        able = float_first(manifest, installed_engines())
        if not able:
            raise Unavailable(f"no engine here runs a variant of {ref}; install ai-edge-litert or onnxruntime")
        # Not the golden samples: proving is for whoever publishes, and for the device.
        wanted = {entry.sha256 for entry in manifest.files}
        wanted -= {manifest.golden.inputs, manifest.golden.outputs, *(variant.file for variant in manifest.variants)}
        wanted.add(able[0].file)
        files = _Files({sha256: await self._blobs.get(registry.file_key(sha256)) for sha256 in wanted})
        return unproven(Bundle(manifest, files, manifest_bytes=data), able[0])


def _told(task: asyncio.Task[Pool]) -> None:
    """Log what came of a load that perhaps nobody waits for any more."""
    if not task.cancelled() and task.exception() is not None:
        _log.warning("model_not_loaded", reason=str(task.exception()))


class _Files:
    def __init__(self, contents: dict[str, bytes]) -> None:
        self._contents = contents

    def read(self, sha256: str) -> bytes:
        if sha256 not in self._contents:
            raise NotFound(f"file {sha256[:12]} was not fetched")
        return self._contents[sha256]

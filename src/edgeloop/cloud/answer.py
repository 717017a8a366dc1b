"""The cloud's own predictions: the `infer` verb, on the most exact variant there is."""

import asyncio
import threading
from collections import OrderedDict

from edgeloop.bundle.archive import Bundle, parse_manifest
from edgeloop.cloud.store import registry
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.engines.find import installed_engines
from edgeloop.runtime.predictor import Predictor, float_first

_KEPT = 4


class Answerer:
    """Keeps the last few bundles loaded."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._loaded: OrderedDict[BundleRef, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    async def infer(self, request: InferRequest) -> InferReply:
        """Predict within the deadline. Raises NotFound, Unavailable, or what the input is wrong with."""
        try:
            async with asyncio.timeout(request.deadline_ms / 1000):
                predictor = await self._predictor(request)
                return InferReply(prediction=await asyncio.to_thread(self._predict, predictor, request.data))
        except TimeoutError as error:
            raise Unavailable(f"no answer within {request.deadline_ms} ms; keep the device's own") from error

    def _predict(self, predictor: Predictor, data: bytes) -> Prediction:
        with self._lock:
            return predictor.predict(data)

    async def _predictor(self, request: InferRequest) -> Predictor:
        if request.version is None:
            newest = await self._database.read(lambda connection: registry.newest_bundle(connection, request.name))
            ref = BundleRef(newest.name, newest.version)
        else:
            ref = BundleRef(request.name, request.version)
        if ref not in self._loaded:
            self._loaded[ref] = await self._load(ref)
            if len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(ref)
        return self._loaded[ref]

    async def _load(self, ref: BundleRef) -> Predictor:
        data = await self._database.read(lambda connection: registry.manifest_bytes(connection, ref))
        manifest = parse_manifest(data)
        able = float_first(manifest, installed_engines())
        if not able:
            raise Unavailable(f"no engine here runs a variant of {ref}; install ai-edge-litert or onnxruntime")
        wanted = {able[0].file}
        if manifest.reference is not None:
            wanted |= {manifest.reference.class_means, manifest.reference.feature_std}
        files = _Files({sha256: await self._blobs.get(registry.file_key(sha256)) for sha256 in wanted})
        return await asyncio.to_thread(Predictor, Bundle(manifest, files, manifest_bytes=data), able[0])


class _Files:
    def __init__(self, contents: dict[str, bytes]) -> None:
        self._contents = contents

    def read(self, sha256: str) -> bytes:
        if sha256 not in self._contents:
            raise NotFound(f"file {sha256[:12]} was not fetched")
        return self._contents[sha256]

"""The `infer` verb of any tier with models: the last few stay loaded, each on the most exact variant that runs here.

Rules kept here:
- a model is loaded once for all who ask for it; who cannot wait goes, and it is loaded for who asks next;
- a model that could not be loaded is not tried again with each question;
- a model is given up when others were asked since, and never under an answer.

Neighbours: `pool` answers; a tier says through `Models` which versions there are and hands over their bytes: the cloud
from its registry, a node from what the targets key signed.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from edgeloop.bundle.archive import Bundle, parse_manifest
from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.manifest import EngineName, Manifest, Variant
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.contracts.names import BundleRef
from edgeloop.runtime.candidates import float_first
from edgeloop.runtime.engines.installed import installed_engines
from edgeloop.runtime.pool import Pool, PoolSettings
from edgeloop.runtime.servable import unproven

_log = structlog.get_logger(__name__)

_KEPT = 4
_SETTINGS = PoolSettings(workers=1, max_batch=1, inline_ms=0)
_AGAIN_AFTER_S = 10.0


class Models(Protocol):
    """Where a tier's models come from."""

    async def find(self, name: str, version: str | None) -> BundleRef:
        """Which bundle answers: the version asked for, else the newest. Raises NotFound, or why none may."""
        ...

    async def manifest(self, ref: BundleRef) -> bytes:
        """The manifest as it was signed. Raises NotFound, or why it cannot be had."""
        ...

    async def file(self, sha256: str) -> bytes:
        """One of the bundle's files. Raises NotFound, or why it cannot be had."""
        ...


class Answerer:
    """Keeps the last few bundles loaded. Belongs to one event loop.

    engines: those that may run a variant. clock: seconds that only grow.
    """

    def __init__(
        self,
        models: Models,
        *,
        engines: Callable[[], Iterable[EngineName]] = installed_engines,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._engines = engines
        self._clock = clock
        self._loaded: OrderedDict[BundleRef, Pool] = OrderedDict()
        self._loading: dict[BundleRef, asyncio.Task[Pool]] = {}
        self._failed: dict[BundleRef, tuple[float, EdgeloopError]] = {}
        self._askers: Counter[BundleRef] = Counter()
        self._ending: set[asyncio.Task[None]] = set()

    async def infer(self, request: InferRequest) -> InferReply:
        """Predict within the deadline. Raises NotFound, Unavailable, or what the input is wrong with."""
        deadline_s = request.deadline_ms / 1000
        try:
            async with asyncio.timeout(deadline_s), self.model(request.name, request.version) as pool:
                return InferReply(prediction=await pool.predict(request.data, deadline_s=deadline_s))
        except TimeoutError as error:
            raise Unavailable(f"no answer within {request.deadline_ms} ms; keep the device's own") from error

    @asynccontextmanager
    async def model(self, name: str, version: str | None) -> AsyncIterator[Pool]:
        """What answers for this name, loaded, and kept as long as the block runs.

        version: None for the newest. Entering raises why that model is not here, never what is wrong with an input.
        """
        ref = await self._models.find(name, version)
        self._askers[ref] += 1
        try:
            yield await self._pool(ref)
        finally:
            self._askers[ref] -= 1
            if not self._askers[ref]:
                del self._askers[ref]
            self._give_up_the_rest()

    async def close(self) -> None:
        """Answer what was asked, and give the models up. What is being loaded is given up at once."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.gather(*(pool.close() for pool in self._loaded.values()), *self._ending)
        self._loaded.clear()

    async def _pool(self, ref: BundleRef) -> Pool:
        if ref in self._loaded:
            self._loaded.move_to_end(ref)
            return self._loaded[ref]
        if ref not in self._loading:
            self._check_not_just_failed(ref)
            self._loading[ref] = asyncio.create_task(self._load(ref))
            self._loading[ref].add_done_callback(_told)
        return await asyncio.shield(self._loading[ref])

    def _check_not_just_failed(self, ref: BundleRef) -> None:
        again_at_s, reason = self._failed.get(ref, (0.0, None))
        left_s = again_at_s - self._clock()
        if reason is not None and left_s > 0:
            raise Unavailable(f"{ref} could not be loaded and is tried again in {left_s:.0f} s: {reason}") from reason

    async def _load(self, ref: BundleRef) -> Pool:
        try:
            pool = self._loaded[ref] = await self._open(ref)
        except NotFound:
            raise
        except EdgeloopError as error:
            self._failed[ref] = (self._clock() + _AGAIN_AFTER_S, error)
            raise
        finally:
            del self._loading[ref]
        self._failed.pop(ref, None)
        self._give_up_the_rest()
        return pool

    async def _open(self, ref: BundleRef) -> Pool:
        data = await self._models.manifest(ref)
        manifest = parse_manifest(data, what=f"the manifest of {ref}")
        able = float_first(manifest, self._engines())
        if not able:
            raise Unavailable(f"no engine here runs a variant of {ref}; install ai-edge-litert or onnxruntime")
        shared = await self._files(_shared(manifest))
        failures: list[EdgeloopError] = []
        for variant in able:
            files = _Files(shared | await self._files({variant.file}))
            try:
                return await Pool.open(unproven(Bundle(manifest, files, manifest_bytes=data), variant), _SETTINGS)
            except EdgeloopError as error:
                _log.warning("variant_not_run", bundle=str(ref), variant=_called(variant), reason=str(error))
                failures.append(error)
        raise Unavailable(f"no variant of {ref} runs here: {failures[0]}") from failures[0]

    async def _files(self, sha256s: Iterable[str]) -> dict[str, bytes]:
        return {sha256: await self._models.file(sha256) for sha256 in sorted(sha256s)}

    def _give_up_the_rest(self) -> None:
        """Close what was asked longest ago, beyond those that are kept, unless somebody is at it."""
        idle = [ref for ref in self._loaded if ref not in self._askers]
        for ref in idle[: max(0, len(self._loaded) - _KEPT)]:
            task = asyncio.create_task(self._loaded.pop(ref).close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def _shared(manifest: Manifest) -> set[str]:
    """The files that every variant needs. Not the golden samples: proving is for publishers, and for devices."""
    golden = manifest.golden
    apart = {golden.inputs, golden.outputs, *(variant.file for variant in manifest.variants)}
    return {entry.sha256 for entry in manifest.files} - apart


def _called(variant: Variant) -> str:
    return f"{variant.engine} {variant.precision}"


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

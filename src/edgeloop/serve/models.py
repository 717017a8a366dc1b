"""The models that a server answers for: each name with one version at a time, loaded, swapped and unloaded under way.

Rules kept here:
- a bundle is loaded and proven in a thread beside those that answer; one that fails changes nothing;
- a name stands for what it stood for: a file that turns out to be another bundle than was looked for is refused, and so
  is a version with another task, input, outputs or labels, unless that very version was asked for;
- what was begun for somebody who goes away is carried through; after the end nothing is loaded any more.

Neighbours: `watch` finds bundles in a folder, `runtime.pool` answers, `routes` asks.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from edgeloop.bundle.archive import open_bundle
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.names import BundleRef, version_key
from edgeloop.runtime.engines.port import CPU
from edgeloop.runtime.engines.settings import Aim, is_parallel
from edgeloop.runtime.load import able_here, load_fastest
from edgeloop.runtime.pool import Pool
from edgeloop.runtime.servable import Servable, prove
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.tally import Tally
from edgeloop.serve.watch import Found, Watch

_log = structlog.get_logger(__name__)

_MOST_LETTERS = 300
"""Of what a bundle is told to change: a model may have thousands of labels."""


@dataclass
class Model:
    """One name that is answered for. tallies: requests by version; swap_failures: bundles that did not become it."""

    name: str
    pool: Pool
    tallies: dict[str, Tally] = field(default_factory=dict)
    swap_failures: int = 0

    @property
    def version(self) -> str:
        """The version that answers now."""
        return self.pool.manifest.version

    def tally(self, version: str) -> Tally:
        """Where requests to a version are counted."""
        if version not in self.tallies:
            self.tallies[version] = Tally()
        return self.tallies[version]


class Models:
    """Models by name. Belongs to one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._watch = Watch(config.watch) if config.watch is not None else None
        self._changing = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._closed = False
        self.by_name: dict[str, Model] = {}
        self.astray: Counter[int] = Counter()

    async def open(self) -> None:
        """Load what the server was started for, and whatever newer there is of it in the watched folder.

        Raises what is wrong with any of the bundles.
        """
        for path in self._config.bundles:
            servable = await asyncio.to_thread(self._servable, path, None)
            name = servable.manifest.name
            if name in self.by_name:
                raise InvalidInput(
                    f"{path} is {servable.manifest.ref}, and {name!r} was given before: a name is answered for by one "
                    "version; name the newer alone"
                )
            await self._put(servable)
        await self.rescan(everything=True)

    def get(self, name: str, version: str | None = None) -> Model:
        """The model that answers for a name. Raises NotFound if none does, or another version."""
        model = self.by_name.get(name)
        if model is None:
            raise NotFound(f"there is no model {name!r} here; there is {self._served() or 'none yet'}")
        if version is not None and version != model.version:
            raise NotFound(f"{name} is version {model.version} here, not {version}")
        return model

    def only(self) -> Model:
        """The one model there is. Raises NotFound if there are several or none."""
        if len(self.by_name) != 1:
            raise NotFound(f"say which model: /models/NAME/predict with NAME one of {self._served() or 'none yet'}")
        return next(iter(self.by_name.values()))

    async def load(self, name: str, version: str | None = None) -> None:
        """Answer for a name with a version from the watched folder, the newest unless told.

        Raises NotFound if it is not there; Refused without a watched folder, if its golden samples do not agree, if the
        file is another bundle than it was, or if it would answer otherwise than what the name stands for, and its
        version was not told.
        """
        await self._carried_through(self._load(self._watched(), name, version))

    async def unload(self, name: str) -> None:
        """Answer no more for a name; what was asked is still answered. Raises NotFound, or Refused as `load`."""
        self._watched()
        await self._carried_through(self._unload(name))

    async def rescan(self, *, everything: bool = False) -> None:
        """Swap in what is newer in the watched folder: of what is new there since the last look, or of everything.

        A bundle that cannot be served is told in the log and left; what answers goes on.
        """
        if self._watch is None:
            return
        async with self._looking:
            fresh = await asyncio.to_thread(self._watch.newest, everything=everything)
        for found in fresh:
            if not self._is_newer(found.ref):
                continue
            try:
                await self._take(found, only_newer=True)
            except EdgeloopError as error:
                _log.warning("bundle_not_served", bundle=str(found.ref), reason=str(error))

    async def watch(self) -> None:
        """Rescan every so often, for ever."""
        while self._watch is not None:
            await asyncio.sleep(self._config.watch_every_s)
            await self.rescan()

    async def index(self) -> list[dict[str, str]]:
        """What answers, and what could be loaded: the model repository extension's index."""
        told = [
            {"name": model.name, "version": model.version, "state": "READY", "reason": ""}
            for model in self.by_name.values()
        ]
        there: list[Found] = []
        if self._watch is not None:
            async with self._looking:
                there = await asyncio.to_thread(self._watch.list)
        for found in there:
            model = self.by_name.get(found.ref.name)
            if model is None or model.version != found.ref.version:
                told.append(
                    {"name": found.ref.name, "version": found.ref.version, "state": "UNAVAILABLE", "reason": "unloaded"}
                )
        return told

    async def close(self) -> None:
        """Answer what was asked, and end. What is being loaded is given up, and nothing is loaded any more."""
        self._closed = True
        if self._changes:
            await asyncio.wait(self._changes)
        async with self._changing:
            await asyncio.gather(*(model.pool.close() for model in self.by_name.values()))
            self.by_name.clear()

    def _is_newer(self, ref: BundleRef) -> bool:
        model = self.by_name.get(ref.name)
        return model is not None and version_key(ref.version) > version_key(model.version)

    async def _carried_through(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and task.exception() is not None:  # perhaps nobody waits for it any more
            _log.warning("model_not_changed", reason=str(task.exception()))

    async def _load(self, watch: Watch, name: str, version: str | None) -> None:
        async with self._looking:
            found = await asyncio.to_thread(watch.find, name, version)
        await self._take(found, may_differ=version is not None)

    async def _unload(self, name: str) -> None:
        async with self._changing:
            model = self.get(name)
            del self.by_name[name]
        await model.pool.close()
        _log.info("model_unloaded", model=name)

    async def _take(self, found: Found, *, only_newer: bool = False, may_differ: bool = False) -> None:
        try:
            servable = await asyncio.to_thread(self._servable, found.path, found.ref)
            await self._put(servable, only_newer=only_newer, may_differ=may_differ)
        except EdgeloopError:
            model = self.by_name.get(found.ref.name)
            if model is not None:
                model.swap_failures += 1
            raise

    async def _put(self, servable: Servable, *, only_newer: bool = False, may_differ: bool = False) -> None:
        name = servable.manifest.name
        async with self._changing:
            if self._closed:
                raise Unavailable(f"{servable.manifest.ref} is not loaded: this server is shutting down")
            if only_newer and not self._is_newer(servable.manifest.ref):  # something else was loaded meanwhile
                return
            model = self.by_name.get(name)
            if model is None:
                self.by_name[name] = Model(name, await Pool.open(servable, self._config.pool))
            else:
                _require_same_promise(model.pool.servable, servable, may_differ=may_differ)
                await model.pool.swap(servable)
        _log.info(
            "model_served", bundle=str(servable.manifest.ref), engine=servable.engine, setting=str(servable.setting)
        )

    def _servable(self, path: Path, expected: BundleRef | None) -> Servable:
        bundle = open_bundle(path)
        if expected is not None and bundle.manifest.ref != expected:
            raise Refused(
                f"{path} was {expected} when it was looked at and is {bundle.manifest.ref} now; look again, and load "
                "it by its own name"
            )
        able = able_here(bundle, self._config.engine)
        pool = self._config.pool
        load = partial(load_fastest, bundle, able, race_s=self._config.race_s)
        proven = partial(prove, bundle, max_batch=pool.max_batch, max_run_s=pool.max_run_ms / 1000)
        with ExitStack() as opened:
            alone = load(threads=self._config.threads)
            opened.callback(alone.close)
            threads = self._config.threads or 1
            takes_turns = alone.setting.accelerator == CPU and not is_parallel(alone.variant.engine, alone.setting)
            if alone.setting.threads == threads and (pool.size == 1 or not takes_turns):
                return proven(alone)
            # Many at a time are answered soonest by as many workers as cores, of one thread each, none of which waits
            # for another one.
            worker = load(threads=threads, aim=Aim.SIDE_BY_SIDE if pool.size > 1 else Aim.SOONEST)
            opened.callback(worker.close)
            return proven(worker, alone=alone)

    def _watched(self) -> Watch:
        if self._watch is None:
            raise Refused("no folder is watched here; start with --watch FOLDER to load and unload its bundles")
        return self._watch

    def _served(self) -> str:
        return ", ".join(sorted(self.by_name))


def _require_same_promise(now: Servable, then: Servable, *, may_differ: bool) -> None:
    """Whoever asks by a name relies on more than the name."""
    old, new = _promise(now), _promise(then)
    changed = [f"{what} from {_short(old[what])} to {_short(new[what])}" for what in old if old[what] != new[what]]
    if not changed:
        return
    _log.warning("model_promises_otherwise", bundle=str(then.manifest.ref), changed=changed, taken=may_differ)
    if not may_differ:
        raise Refused(
            f"{then.manifest.ref} is not put in the place of {now.manifest.ref}: it changes {'; '.join(changed)}. If "
            f"its askers know, load it by its version: POST /v2/repository/models/{then.manifest.name}/load with "
            f'{{"parameters": {{"version": "{then.manifest.version}"}}}}'
        )


def _short(told: object) -> str:
    text = str(told)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def _promise(servable: Servable) -> dict[str, Any]:
    """What a model's askers see of it, beside how right it is."""
    manifest = servable.manifest
    return {
        "task": manifest.task.value,
        "input": msgspec.to_builtins(manifest.input),
        "outputs": dict(servable.outputs),
        "labels": list(manifest.labels),
    }

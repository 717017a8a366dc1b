"""A device at work behind a link that means ill, with everything that a thief of the server would have.

The cloud and the device are processes, the link stands between them on real sockets. 1.0.0 runs, 1.1.0 is published
and assigned, and attack after attack stands in its way or in its place: the device goes on answering with 1.0.0, and
once the link is honest it takes 1.1.0 (without which none of this would say anything). All of it twice: where the hub
gives many files in one answer, of which the link makes what it makes of each, and where each is asked for by itself. A
drip until it is given up: see tests/unit/device/test_supply.py.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from builders import make_bundle, quadrant_images
from edgeloop.bundle.archive import digest, open_bundle
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import Gate, JoinTokenRequest, RolloutRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.messages import PatchOffer, WatchBounds
from edgeloop.contracts.states import RolloutState
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain import keys
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.identity import load_or_make_key, read_key
from edgeloop.transport.signing import public_key, sign
from hostile_link import TRUST, Drip, Endless, HostileLink, plainly, to
from processes import Process

RATE_HZ = 50
DEADLINE_S = 40.0
MINE = "director/cam/metadata"
IMAGES = "images/metadata"
EVIL = b'{"name": "evil"}'
ROLES = ("root", "snapshot", "targets")
FAR = 2**50


@dataclass
class World:
    """The cloud, the link, the device; and the keys that the thief has: online, one of two for targets, an old one."""

    folder: Path
    api: CloudApi
    link: HostileLink
    show: Callable[[int], None]
    images_key: Ed25519PrivateKey
    director_key: Ed25519PrivateKey
    one_targets_key: Ed25519PrivateKey
    retired_targets_key: Ed25519PrivateKey
    before: dict[str, bytes] = field(default_factory=dict)
    forged_answers: set[int] = field(default_factory=set)
    read_so_far: int = 0
    bundles: Counter[str] = field(default_factory=Counter)

    def honest(self, path: str) -> bytes:
        """What the hub last said at this path."""
        return self.link.seen[path]

    def look(self) -> int:
        """Take in the readings that came up since; how many there are."""
        while page := self.api.readings("cam", after=self.read_so_far, limit=1000):
            self.read_so_far += len(page)
            self.bundles.update(row.reading.prediction.bundle for row in page)
        return self.bundles.total()

    def counted(self, forge: Callable[[str], bytes | None]) -> Callable[[str], bytes | None]:
        """The same forger; each answer in which a forgery is handed over is counted."""

        def count(path: str) -> bytes | None:
            data = forge(path)
            if data is not None:
                self.forged_answers.add(self.link.answers)
            return data

        return count

    def withstands(self, attack: str, place: str | tuple[str, ...] | None = None) -> None:
        """The device meets the attack twice, and meanwhile answers on, with the old version.

        place: for what is not forged, the paths at which the device meets it.
        """

        def met() -> int:
            if place is None:
                return len(self.forged_answers)
            return sum(count for path, count in self.link.asked.items() if path.startswith(place))

        before, answered = met(), self.look()
        self.show(5)
        _until(lambda: met() >= before + 2, f"{attack}: being met")
        _until(lambda: self.look() >= answered + 5, f"{attack}: answers")
        assert set(self.bundles) == {"tiny@1.0.0"}, attack


@pytest.fixture(params=[True, False], ids=["in one answer", "one by one"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        folder = tmp_path / "cloud"
        found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
        serving = ("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0")
        cloud = Process(*serving, log=tmp_path / "cloud.log")
        stack.callback(cloud.stop)
        url = cloud.start()["url"]
        api = stack.enter_context(CloudApi(Operator(url=url, token=read_operator(folder / "operator.json").token)))
        link = stack.enter_context(HostileLink(to(url), knows_trust=request.param))
        retired = read_key(tmp_path / "keys" / "targets.pem")
        new_keys = _two_targets_keys(api, tmp_path / "keys")
        publish(make_bundle(tmp_path), api, targets_key=new_keys[0], further_keys=new_keys[1:])
        token = api.make_join_token(JoinTokenRequest()).token
        spool = tmp_path / "spool"
        spool.mkdir()
        show = _shower(spool)
        show(30)
        where = ("--dir", str(tmp_path / "device"), "--hub", link.url, "--join", token, "--id", "cam")
        how = ("--source", str(spool), "--rate-hz", str(RATE_HZ), "--longest-backoff-s", "0.2", "--json")
        device = Process("-m", "edgeloop", "device", "run", *where, *how, log=tmp_path / "device.log")
        stack.callback(device.stop)
        device.start()
        _roll_out(api, "1.0.0", wait=True)
        made = World(
            tmp_path,
            api,
            link,
            show,
            images_key=read_key(folder / "online" / "images.pem"),
            director_key=read_key(folder / "online" / "director.pem"),
            one_targets_key=read_key(new_keys[0]),
            retired_targets_key=retired,
        )
        made.before = dict(link.seen)
        assert link.asked[TRUST]
        assert (f"{MINE}/timestamp.json" in link.asked) is not request.param
        link.lies_at = {*made.before, *(f"{place}/{name}" for place in (MINE, IMAGES) for name in _names())}
        publish(make_bundle(tmp_path, version="1.1.0"), api, targets_key=new_keys[0], further_keys=new_keys[1:])
        yield made


def test_no_attack_makes_a_device_run_anything_or_stops_its_answers(world: World) -> None:
    link = world.link
    link.forge = _replayed(world, MINE, IMAGES)  # from now on, so that 1.1.0 does not come through meanwhile
    _roll_out(world.api, "1.1.0", wait=False)
    for attack, forge, place in (
        ("rollback and freeze", _replayed(world, MINE, IMAGES), MINE),
        ("tampered metadata", _changed(world, f"{MINE}/"), MINE),
        ("root of the other repository", _root_swapped(world), MINE),
        ("another device's assignment", _director_says(world, device="other"), MINE),
        ("expired", _director_says(world, days=-1), MINE),
        ("mix and match", _mixed(world), IMAGES),
        ("tampered root", _root_changed(world), IMAGES),
        ("stolen online keys", _images_say(world, [world.images_key]), IMAGES),
        ("below the threshold", _images_say(world, [world.one_targets_key]), IMAGES),
        ("revoked key", _images_say(world, [world.retired_targets_key, world.one_targets_key]), IMAGES),
        ("stolen director key: an unknown model", _director_says(world, manifest=EVIL), IMAGES),
    ):
        # What an attack leaves alone is as it was before 1.1.0: a question that is under way while one attack gives
        # way to the next must find no gap between them.
        past = () if attack == "mix and match" else (_replayed(world, place),)
        link.forge = _first_of(world.counted(forge), *past, _mixed(world))
        world.withstands(attack)

    timestamps = (TRUST, f"{MINE}/timestamp.json")
    link.send = Endless(timestamps)
    world.withstands("endless metadata", timestamps)
    link.send = plainly
    link.forge = world.counted(_director_says(world, manifest=EVIL, version=FAR, days=36_500))
    world.withstands("fast-forward")
    link.tamper = lambda path, data: b"\0" * len(data) if path.startswith("targets/") else data
    link.forge = lambda path: None
    world.withstands("fast-forward, for as long as the stolen key counts", (TRUST, MINE))
    _rotate_online(world)

    world.withstands("tampered targets", "targets/")
    first = open_bundle(world.folder / "tiny-1.0.0.edgeloop")
    link.tamper = lambda path, data: first.manifest_bytes if path.startswith("targets/") else data
    world.withstands("another file, well signed under another name", "targets/")
    model = first.manifest.variants[0].file
    link.forge = world.counted(_patch_offered(model))
    world.withstands("a patch that names the model at work")
    assert digest((world.folder / "device" / "bundles" / "files" / model).read_bytes()) == model
    link.forge = lambda path: None
    link.send = Endless("targets/")
    world.withstands("endless target", "targets/")
    link.send = _drip_targets
    link.tamper = lambda path, data: data
    answered = world.look()
    world.show(RATE_HZ)
    _until(lambda: world.look() >= answered + RATE_HZ, "answers while a download drips")
    assert set(world.bundles) == {"tiny@1.0.0"}

    link.send = plainly
    link.cut()  # the dripping download, as it would be given up
    _until(lambda: world.show(2) is None and bool(world.look()) and "tiny@1.1.0" in world.bundles, "1.1.0 in the end")


# ---- what the thief does


def _names() -> list[str]:
    """Files that there may be of a repository, of which the thief's are some."""
    numbered = [f"{number}.{role}.json" for number in (*range(1, 6), 900, FAR) for role in ROLES]
    return ["timestamp.json", *numbered]


def _first_of(*forges: Callable[[str], bytes | None]) -> Callable[[str], bytes | None]:
    return lambda path: next((data for forge in forges if (data := forge(path)) is not None), None)


def _patch_offered(sha256: str) -> Callable[[str], bytes | None]:
    offer = to_json(PatchOffer(sha256=sha256, size_bytes=100))
    return lambda path: offer if path.startswith("patches/") else None


def _replayed(world: World, *places: str) -> Callable[[str], bytes | None]:
    """What the hub said before 1.1.0 was published and assigned."""
    return lambda path: world.before.get(path) if path.startswith(places) else None


def _changed(world: World, place: str) -> Callable[[str], bytes | None]:
    """Signed metadata with another expiry."""

    def forge(path: str) -> bytes | None:
        if not path.startswith(place) or "root" in path:
            return None
        document = json.loads(world.before[f"{MINE}/timestamp.json"])
        document["signed"]["expires"] = "2099-01-01T00:00:00Z"
        return json.dumps(document).encode()

    return forge


def _root_swapped(world: World) -> Callable[[str], bytes | None]:
    """The images root where the director's next one would be: signed by the root key of both."""
    swapped = world.api.keys().images_root
    assert Metadata.from_bytes(swapped).signed.version == 2
    return lambda path: swapped if path == f"{MINE}/2.root.json" else None


def _root_changed(world: World) -> Callable[[str], bytes | None]:
    """A next root that names the thief's keys, signed by the thief."""

    def forge(path: str) -> bytes | None:
        where, _, file = path.rpartition("/")
        if where not in (IMAGES, MINE) or not file.endswith(".root.json"):
            return None
        newest = world.api.keys()
        root = Metadata.from_bytes(newest.images_root if where == IMAGES else newest.director_root).signed
        root.version += 1
        if file != f"{root.version}.root.json":
            return None
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(public_key(world.one_targets_key), role)
            root.roles[role].threshold = 1
        return sign(Metadata(root), [world.one_targets_key])

    return forge


def _director_says(
    world: World, *, device: str = "cam", manifest: bytes | None = None, days: float = 7, version: int | None = None
) -> Callable[[str], bytes | None]:
    """A director's word by its stolen key, newer than all that was seen."""
    newer = version or 900
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    targets = {}
    if manifest is not None:
        word = {"generation": 9, "rollout_id": "x", "bundle": "evil@9.0.0", "manifest_sha256": digest(manifest)}
        target = TargetFile.from_data("assignment", digest(manifest).encode(), ["sha256"])
        target.unrecognized_fields["custom"] = {"assignment": json.dumps(word)}
        targets = {"assignment": target}
    return _signed_set(
        MINE, newer, expires, targets, world.director_key, [world.director_key], device=device, far=version is not None
    )


def _images_say(world: World, signers: list[Ed25519PrivateKey]) -> Callable[[str], bytes | None]:
    """A model of the thief's own, in targets that these keys signed, under stolen snapshot and timestamp keys."""
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    path = "bundles/evil/9.0.0/manifest.json"
    targets = {path: TargetFile.from_data(path, EVIL, ["sha256"])}
    return _signed_set(IMAGES, 900, expires, targets, world.images_key, signers)


def _signed_set(
    place: str,
    version: int,
    expires: datetime,
    targets: dict[str, TargetFile],
    online: Ed25519PrivateKey,
    signers: list[Ed25519PrivateKey],
    *,
    device: str | None = None,
    far: bool = False,
) -> Callable[[str], bytes | None]:
    number = version if far else version * 100_000
    signed = {
        f"{place}/timestamp.json": Timestamp(version=number, expires=expires, snapshot_meta=MetaFile(version)),
        f"{place}/{version}.snapshot.json": Snapshot(
            version=version, expires=expires, meta={"targets.json": MetaFile(version)}
        ),
        f"{place}/{version}.targets.json": Targets(version=version, expires=expires, targets=targets),
    }
    made = {}
    for path, one in signed.items():
        if device is not None:
            one.unrecognized_fields["device"] = device
        made[path] = sign(Metadata(one), signers if "targets.json" in path else [online])  # type: ignore[type-var]
    return made.get


def _mixed(world: World) -> Callable[[str], bytes | None]:
    """The newest timestamp over a snapshot of before, under the newest one's name."""

    def forge(path: str) -> bytes | None:
        if not (path.startswith(IMAGES) and path.endswith(".snapshot.json")):
            return None
        return next(data for name, data in world.before.items() if name.startswith(IMAGES) and "snapshot" in name)

    return forge


async def _drip_targets(writer: object, path: str, content: bytes) -> int:
    send = Drip(every_s=0.2) if path.startswith("targets/") else plainly
    return await send(writer, path, content)  # type: ignore[arg-type]


# ---- the world


def _two_targets_keys(api: CloudApi, folder: Path) -> list[Path]:
    """The targets key of founding is retired; two new ones must both sign."""
    paths = [folder / "first.pem", folder / "second.pem"]
    private = [load_or_make_key(path) for path in paths]
    view = api.keys()
    (targets,) = (one for one in view.roles if (one.repository, one.role) == ("images", "targets"))
    change = keys.RoleChange(
        "targets", added=[public_key(one) for one in private], dropped=list(targets.key_ids), threshold=2
    )
    signers = keys.Signers([read_key(folder / "root.pem")], private)
    api.change_keys(keys.change_role(view, change, signers, now_s=time.time()))
    return paths


def _rotate_online(world: World) -> None:
    new = {one: world.api.make_online_key(one) for one in ("images", "director")}
    signers = keys.Signers([read_key(world.folder / "keys" / "root.pem")])
    world.api.change_keys(keys.change_online(world.api.keys(), new, signers, now_s=time.time()))


def _roll_out(api: CloudApi, version: str, *, wait: bool) -> None:
    gate = Gate(watch=WatchBounds(min_readings=5, deadline_s=5.0))
    view = api.start_rollout(RolloutRequest(bundle=f"tiny@{version}", waves=("100%",), gate=gate))
    if wait:
        _until(lambda: api.rollout(view.rollout_id).state is RolloutState.COMPLETED, "the rollout's end")


def _shower(spool: Path) -> Callable[[int], None]:
    """Puts so many new frames before the camera."""
    images = quadrant_images(100, seed=3)
    numbers = itertools.count()

    def show(count: int) -> None:
        for number in itertools.islice(numbers, count):
            half = spool / f".{number}"
            half.write_bytes(encode_png(images[number % len(images)]))
            half.rename(spool / f"a-{number:05d}.png")

    return show


def _until(is_true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not is_true():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what} did not come about within {DEADLINE_S:.0f} s")
        time.sleep(0.05)

"""The unit of a service as text: pure, from what it is to run and where.

What it decides: a service that ended, however it did, is started again and never given up; it may write to its own
folder and cache, and nowhere else. See docs/adr/0032.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

from edgeloop.cli.service.quoting import argument, listed_path, sole_path, word
from edgeloop.contracts.errors import InvalidInput

MARK = "# Written by 'edgeloop "
"""How a unit of ours begins."""

_HOMES = (PurePath("/home"), PurePath("/root"), PurePath("/run/user"))
_TEMPORARY = (PurePath("/tmp"), PurePath("/var/tmp"))  # noqa: S108 - looked for, not written to
_LAST_LOW_PORT = 1023


class Tier(StrEnum):
    """What a service runs."""

    CLOUD = "cloud"
    NODE = "node"
    DEVICE = "device"


@dataclass(frozen=True)
class Service:
    """What a unit is made of. All paths are absolute.

    program: the interpreter; arguments: what follows it. folder: what it may write to. reads: other paths that it was
    told of. environment_file: variables that are nobody else's business. account: None for a user's own unit.
    groups: more groups that the account is to have. port: where it listens, None if nowhere.
    """

    name: str
    tier: Tier
    program: str
    arguments: tuple[str, ...]
    folder: Path
    reads: tuple[Path, ...]
    environment_file: Path
    account: str | None
    groups: tuple[str, ...] = ()
    port: int | None = None


def unit_text(service: Service) -> str:
    """The unit file. Raises InvalidInput if a path cannot be written in one."""
    if "$" in service.program:
        raise InvalidInput(f"the interpreter {service.program} has a $ in its path; install edgeloop elsewhere")
    is_own = service.account is None
    lines = [
        f"{MARK}{service.tier} install-service': change it with that command and --force, or add to it with "
        f"'systemctl {'--user ' * is_own}edit {service.name}'.",
        "[Unit]",
        f"Description=edgeloop {service.tier} ({service.name})",
        *([] if is_own else _order(service.tier)),
        "# However often it fails: it is never given up.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *_process(service),
        *([] if service.account is None else _account(service, service.account)),
        "NoNewPrivileges=yes",
        *([] if is_own else _walls(service)),
        "",
        "[Install]",
        f"WantedBy={'default.target' if is_own else 'multi-user.target'}",
    ]
    return "\n".join(lines) + "\n"


def _order(tier: Tier) -> list[str]:
    if tier is Tier.DEVICE:
        return [
            "# It waits for no network: it predicts without one, and finds its hub whenever there is one. The order",
            "# alone: at shutdown it ends before the network does.",
            "After=network.target",
        ]
    return [
        "# The address that it listens on may come with the network.",
        "Wants=network-online.target",
        "After=network-online.target postgresql.service" if tier is Tier.CLOUD else "After=network-online.target",
    ]


def _process(service: Service) -> list[str]:
    command = " ".join([word(service.program), *map(argument, service.arguments)])
    return [
        "# It says when it is ready, and from then on that it is alive; if it has not for so long, it is killed.",
        "Type=notify",
        "WatchdogSec=3min",
        f"ExecStart={command}",
        f"WorkingDirectory={sole_path(str(service.folder))}",
        f"EnvironmentFile=-{sole_path(str(service.environment_file))}",
        "Restart=always",
        "RestartSec=3",
        # A cloud brings its database up to date before it is ready.
        f"TimeoutStartSec={'infinity' if service.tier is Tier.CLOUD else '10min'}",
        "TimeoutStopSec=30",
        "# The first signal goes to it alone: it ends its own children.",
        "KillMode=mixed",
        "# A model runs in a process of its own: when that is killed for want of memory, the rest goes on.",
        "OOMPolicy=continue",
    ]


def _account(service: Service, account: str) -> list[str]:
    groups = [f"SupplementaryGroups={' '.join(service.groups)}"] if service.groups else []
    return [
        f"User={account}",
        *groups,
        "UMask=0077",
        f"CacheDirectory={service.name}",
        f"Environment=XDG_CACHE_HOME=%C/{service.name}",
    ]


def _walls(service: Service) -> list[str]:
    """What it may not. Device files stay within reach of devices and nodes, as far as its groups allow: cameras,
    microphones and accelerators have too many names to list."""
    known = (service.folder, Path(service.program), *service.reads)
    writes, needs_tmp = [listed_path(str(service.folder))], _any_below(known, _TEMPORARY)
    if needs_tmp:
        writes += map(str, _TEMPORARY)  # else strict makes them read-only
    capability = "CAP_NET_BIND_SERVICE" if service.port and service.port <= _LAST_LOW_PORT else ""
    return [
        "ProtectSystem=strict",
        f"ReadWritePaths={' '.join(writes)}",
        # Seen where something of it lies there, and read-only but for its folder.
        f"ProtectHome={'read-only' if _any_below(known, _HOMES) else 'yes'}",
        f"PrivateTmp={'no' if needs_tmp else 'yes'}",
        *(["PrivateDevices=yes"] if service.tier is Tier.CLOUD else []),
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "RestrictNamespaces=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        f"CapabilityBoundingSet={capability}",
        *([f"AmbientCapabilities={capability}"] if capability else []),
    ]


def _any_below(paths: tuple[Path, ...], tops: tuple[PurePath, ...]) -> bool:
    return any(path.is_relative_to(top) for path in paths for top in tops)

"""What this machine is."""

import os
import platform

import psutil

from edgeloop import __version__
from edgeloop.contracts.messages import Profile
from edgeloop.runtime.engines.installed import installed_engines


def this_machine() -> Profile:
    """The profile of the machine that runs this."""
    return Profile(
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cpu_count=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        engines=installed_engines(),
        edgeloop=__version__,
    )


def describe(profile: Profile) -> str:
    """A line for people and manifests, such as "x86_64, 2 cores, litert 2.3.0"."""
    engines = ", ".join(f"{name} {version}" for name, version in sorted(profile.engines.items()))
    return f"{profile.architecture}, {profile.cpu_count} cores, {engines}"

"""`install-service` and `uninstall-service` of every tier: what it runs becomes a service of systemd."""

from edgeloop.cli.service.command import add_service_commands
from edgeloop.cli.service.options import is_rehearsal

__all__ = ["add_service_commands", "is_rehearsal"]

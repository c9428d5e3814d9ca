"""``python -m m365_portal`` runs portalctl."""

from m365_portal.cli import run

run()

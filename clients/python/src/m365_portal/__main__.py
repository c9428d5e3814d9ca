"""``python -m m365_portal`` is portalctl."""

from m365_portal.cli import run

run()

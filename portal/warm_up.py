"""Does once, before a web process accepts requests, what the first visitors would otherwise wait for."""

import logging

from django.template import TemplateDoesNotExist, loader
from django.urls import reverse

from portal.settings_model import BASE_DIR

logger = logging.getLogger(__name__)

# The pages on which people arrive, and those that must be shown while something is wrong.
TEMPLATES = ("home", "accounts", "connections", "incidents")


def warm_up() -> None:
    """Load the URLs with all views, and compile templates. Uses no database, and never fails."""
    reverse("home")
    folder = BASE_DIR / "templates"
    names = [*folder.glob("*.html"), *(path for name in TEMPLATES for path in (folder / name).glob("*.html"))]
    for path in names:
        try:
            loader.get_template(str(path.relative_to(folder)))
        except (TemplateDoesNotExist, ValueError):  # the page itself will say so
            logger.exception("A template could not be compiled in advance.")

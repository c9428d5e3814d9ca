"""Prepares a web process before it accepts requests, so that the first visitors don't have to wait."""

import logging

from django.template import TemplateDoesNotExist, TemplateSyntaxError, loader
from django.urls import reverse

from portal.settings_model import BASE_DIR

logger = logging.getLogger(__name__)

# The pages where people arrive, and those that are needed during problems.
TEMPLATES = ("home", "accounts", "connections", "incidents")


def warm_up() -> None:
    """Load all views and URLs, and compile templates. Uses no database. An unusable template is only logged."""
    reverse("home")
    folder = BASE_DIR / "templates"
    names = [*folder.glob("*.html"), *(path for name in TEMPLATES for path in (folder / name).glob("*.html"))]
    for path in names:
        try:
            loader.get_template(str(path.relative_to(folder)))
        except (
            TemplateDoesNotExist,
            TemplateSyntaxError,
            ValueError,
        ):  # the page that uses the template will report the error
            logger.exception("A template could not be compiled in advance.")

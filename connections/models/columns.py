from collections.abc import Mapping
from typing import Any

from django.db.models import Model


def set_columns(row: Model, values: Mapping[str, Any]) -> None:
    """Set the values on an object, for example after a query has stored them."""
    for name, value in values.items():
        setattr(row, name, value)

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction

from connections.errors import PortalError


@contextmanager
def atomic_or(error: Callable[[], PortalError]) -> Iterator[None]:
    """Run the block in a transaction. If it violates a constraint, roll back and raise ``error()``."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as violation:
        raise error() from violation

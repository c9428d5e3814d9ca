"""People who use the portal."""

from django.contrib.auth.models import AbstractUser

# Roles are Django groups with these names; everybody else is a member.
IT_ADMINS = "IT admins"
AUDITORS = "Auditors"


class User(AbstractUser):
    """A person. Signs in with Microsoft, or with a local password (first superuser, break-glass)."""

    class Meta(AbstractUser.Meta):
        pass

    def __str__(self) -> str:
        return self.get_full_name() or self.username

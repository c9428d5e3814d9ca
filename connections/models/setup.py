from django.conf import settings
from django.db import models


class SetupDecision(models.Model):
    """What the IT admins have decided about the setup checklist: a step confirmed by hand, or the list dismissed."""

    class Step(models.TextChoices):
        SIGN_IN = "sign_in", "Sign-in with Microsoft"
        POLICY = "policy", "Policy"
        BACKUP = "backup", "Backups"
        CHECKLIST = "checklist", "Setup checklist"  # dismissed

    step = models.CharField(max_length=10, choices=Step, unique=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320)
    decided_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.get_step_display()

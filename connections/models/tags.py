from django.db import models

from connections.models.connections import Connection


class ConnectionTag(models.Model):
    """A keyword for a connection, visible to everybody who can see the connection. See services.connections.tags."""

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="tags", db_index=False)
    name = models.CharField(max_length=40)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("connection", "name"), name="connection_tag_once"),)
        indexes = (models.Index(fields=("name", "connection"), name="connection_by_tag"),)

    def __str__(self) -> str:
        return self.name

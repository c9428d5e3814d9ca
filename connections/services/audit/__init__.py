"""Sealing, verifying, publishing, streaming, reporting on and exporting the audit trail."""

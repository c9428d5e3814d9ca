"""Sealing, verifying, publishing, reporting on and exporting the audit trail."""

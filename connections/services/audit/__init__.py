"""The audit trail after it is written: sealing, verification, publishing, reports and exports."""

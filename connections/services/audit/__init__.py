"""The audit trail after it is written: sealing, verification, publishing, reports and exports.

Only connections/audit.py writes events; nothing here changes one.
"""

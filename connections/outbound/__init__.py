"""Messages to everybody but Microsoft: e-mails, chat cards and signed webhooks about alerts.

Knows no tables: it turns plain facts into messages, or sends bytes to a checked address.
"""

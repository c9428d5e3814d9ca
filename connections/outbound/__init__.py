"""Messages to everyone except Microsoft: alerts as e-mails, chat cards and signed webhooks.

Nothing here uses the database: it turns plain facts into messages, or sends bytes to a checked address.
"""

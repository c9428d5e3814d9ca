"""What leaves the portal for anybody but Microsoft: e-mails, chat cards and signed webhooks about alerts.

Knows no tables: it gets plain facts and makes messages of them, or sends bytes to an address it has checked.
"""

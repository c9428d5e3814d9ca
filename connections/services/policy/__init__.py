"""The rules of the policy, their decisions about a connection or share, and the approvals they require."""

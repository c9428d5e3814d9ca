"""The policy: its rules, the decisions about connections and shares, and the approvals that it requires."""

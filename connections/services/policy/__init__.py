"""The policy's rules, their decisions about connections and shares, and the approvals they require."""

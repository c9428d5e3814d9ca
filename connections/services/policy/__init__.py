"""The rules of the policy, how they decide a single case, and the approvals they ask for."""

"""The product: tenants, app registrations, connections and everything that keeps them working."""

"""Every change of state: one verb per function, the actor always named."""
